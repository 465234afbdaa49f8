"""Photograph captioning with a CNN encoder and an LSTM decoder, in the order of the data.

settings → scenes, download, dataset_files, dataset → captions → photographs → encoder → features →
batches → decoder → training → search → metrics → figures → captioner. A module imports only from
modules before it.
"""

"""Photograph captioning with a CNN encoder and an LSTM decoder, in the order of the data.

- What everything stands on: `errors`, `settings`, `files`, `devices`, `lock`
- The layout of a data set, and drawing the sample: `dataset_files`, `scenes.story`,
  `scenes.words`, `scenes.captions`, `scenes.pen`, `scenes.plants`, `scenes.backgrounds`,
  `scenes.people`, `scenes.things`, `scenes.drawing`, `scenes`
- Reading a data set: `download`, `dataset`
- From captions and photographs to arrays: `captions`, `photographs`, `encoder`, `feature_files`,
  `features`, `batches`
- The model, and captions from it: `layers`, `decoder`, `search`
- Teaching it and judging it: `metrics`, `consensus`, `agreement`, `journal`, `training`,
  `self_critical`, `evaluation`
- Showing and using it: `architecture`, `charts`, `pictures`, `figures`, `captioner`,
  `model_card`, `fine_tuning`
- Running the notebooks: `run_stages`, `colab`, `run_notebooks`, `summary`

A module imports only from modules before it; a test reads this list.
"""

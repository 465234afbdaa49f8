"""Photograph captioning with a CNN encoder and an LSTM decoder, in the order of the data.

- What a run is made of: `machinery.errors`, `settings`
- Machinery; skip it on a first reading: `machinery.quiet`, `machinery.progress`, `machinery.files`,
  `machinery.devices`, `machinery.lock`, `machinery.archives`
- Captions and photographs: `dataset`, `captions`, `photographs`, `encoder`, `features`, `batches`
- The model, scores, and captions from it: `decoder`, `metrics`, `search`,
  `neighbours`
- Training and evaluation: `machinery.checkpoints`, `training`, `self_critical`, `evaluation`
- Using and showing it: `captioner`, `figures`

A module imports only from modules before it; a test reads this list.
"""

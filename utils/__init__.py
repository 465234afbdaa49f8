"""Photograph captioning with a CNN encoder and an LSTM decoder, in the order of the data.

- What everything stands on: `errors`, `settings`, `files`
- Drawing the sample: `scene_story`, `scene_words`, `scene_captions`, `scene_pen`, `scene_plants`,
  `scene_backgrounds`, `scene_people`, `scene_things`, `scene_drawing`, `scenes`
- Reading a data set: `download`, `dataset_files`, `dataset`
- From captions and photographs to arrays: `captions`, `photographs`, `encoder`, `features`,
  `batches`
- The model, and captions from it: `decoder`, `search`
- Teaching it and judging it: `metrics`, `agreement`, `training`, `evaluation`
- Showing and using it: `architecture`, `charts`, `pictures`, `figures`, `captioner`
- Running the notebooks: `colab`, `run_notebooks`, `summary`

A module imports only from modules before it; a test reads this list.
"""

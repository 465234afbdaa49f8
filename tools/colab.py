"""Google Colab: results, settings and data that outlive the machine, and a visitor's photograph.

Every notebook there has a machine of its own, so what one hands to the next lies on Google Drive.
"""

import base64
import io
import os
import shutil
from pathlib import Path

from PIL import Image

from utils.dataset import ARCHIVES_ADDRESS
from utils.machinery.archives import download, unpack
from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import read_json, write_json
from utils.settings import Settings

DRIVE = Path("/content/drive")
FOLDER = DRIVE / "MyDrive" / "photograph-captions"
ARCHIVES = ("Flickr8k_text", "Flickr8k_Dataset")
_GB = 1e9
_ARCHIVES_SIZE = 1.1 * _GB
# Features of all photographs and of the mirrored training split, of the encoders with the largest.
_FEATURES_SIZE = {"xception_wide": 8.6 * _GB}
_FEATURES_SIZE_ELSE = 5.8 * _GB
_WEBCAM = """(async () => {
  const video = document.body.appendChild(document.createElement('video'));
  video.srcObject = await navigator.mediaDevices.getUserMedia({video: true});
  await video.play();
  await new Promise(clicked => video.onclick = clicked);
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext('2d').drawImage(video, 0, 0);
  video.srcObject.getTracks().forEach(track => track.stop());
  video.remove();
  return canvas.toDataURL('image/jpeg');
})()"""


def set_up() -> None:
    """Connects Drive, sends results there, and sets what `keep_settings` kept; may run again.

    Sets environment variables, so call it before `Settings.from_environment`. A variable that is
    already set stays. Without Drive a notebook still runs, but the next one misses its files.
    """
    if os.environ.get("RUNS") not in (None, "", str(FOLDER / "runs")):
        print(f"RUNS is set: results go to {os.environ['RUNS']}.")
        return
    from google.colab import drive

    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # Colab raises several kinds when the user declines
        print(
            f"Google Drive is not connected ({error}). This notebook runs without it, but the next "
            "one won't find its results: run this cell again to connect it."
        )
        return
    os.environ["RUNS"] = str(FOLDER / "runs")
    print("Results go to the folder photograph-captions/runs of your Google Drive.")
    for name, value in _kept().items():
        os.environ[name] = os.environ.get(name) or value
        print(f"{name} is {os.environ[name]}.")


def keep_settings(**chosen: str | int | None) -> Settings:
    """Checks settings, takes them for this notebook, and keeps them on Drive for the next ones.

    Names are those of the settings, `DATASET="flickr8k", EPOCHS=5`; "" and None change nothing.

    Raises:
        SettingsError: a value is not of its kind; nothing is kept then.
    """
    values = {name: str(value) for name, value in chosen.items() if value not in (None, "")}
    settings = Settings.from_environment({**os.environ, **values})
    os.environ.update(values)
    lasting = "for this notebook only, as Drive is not connected"
    if os.environ.get("RUNS") == str(FOLDER / "runs"):
        write_json(FOLDER / "settings.json", _kept() | values)
        lasting = "for this notebook and the next ones"
    for name, value in values.items():
        print(f"{name} is {value}, {lasting}.")
    return settings


def _kept() -> dict[str, str]:
    known = [name.upper() for name in Settings.__dataclass_fields__]
    try:
        kept = read_json(FOLDER / "settings.json", fields={})
    except CaptionProjectError:  # none yet, or edited into nonsense
        return {}
    return {name: str(value) for name, value in kept.items() if name in known}


def fetch_data_once(settings: Settings) -> None:
    """Keeps Flickr8k's archives on Drive if there is room, and unpacks them on this machine."""
    if settings.dataset != "flickr8k" or settings.data or not FOLDER.parent.is_dir():
        return
    free = shutil.disk_usage(FOLDER.parent).free
    size = _FEATURES_SIZE.get(settings.encoder, _FEATURES_SIZE_ELSE)
    print(
        f"Flickr8k takes {_ARCHIVES_SIZE / _GB:.1f} GB and its features up to {size / _GB:.1f} GB; "
        f"Drive has {free / _GB:.1f} GB."
    )
    if free < _ARCHIVES_SIZE + size and not (FOLDER / f"{ARCHIVES[-1]}.zip").exists():
        print("That is too little: each notebook downloads the photographs again.")
        return
    for name in ARCHIVES:
        if not (settings.dataset_folder / name).exists():
            archive = download(f"{ARCHIVES_ADDRESS}{name}.zip", FOLDER / f"{name}.zip")
            unpack(archive, settings.dataset_folder / name)


def bring_photograph(webcam: bool = False) -> Image.Image | None:
    """Lets the visitor upload a photograph or take one; None if they don't."""
    from google.colab import files, output

    if webcam:
        print("Click on the picture of your camera to take it.")
        content = base64.b64decode(output.eval_js(_WEBCAM).partition(",")[2])
    else:
        content = next(iter(files.upload().values()), None)
    return Image.open(io.BytesIO(content)) if content else None

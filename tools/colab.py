"""Google Colab: results that outlive the machine, since every notebook there has one of its own."""

import os

DRIVE = "/content/drive"
RUNS_ON_DRIVE = f"{DRIVE}/MyDrive/photograph-captions/runs"


def keep_runs_on_drive() -> None:
    """Connects the user's Google Drive and lets the run's files lie there, for the next notebook.

    Sets the environment variable RUNS, so call it before `Settings.from_environment`. A RUNS that
    is already set stays. Without Drive the notebook still runs, but the next one misses its files.
    """
    if os.environ.get("RUNS"):
        print(f"RUNS is set: results go to {os.environ['RUNS']}.")
        return
    from google.colab import drive

    try:
        drive.mount(DRIVE)
    except Exception as error:  # Colab raises several kinds when the user declines
        print(
            f"Google Drive is not connected ({error}). This notebook runs without it, but the next "
            "one won't find its results: run this cell again to connect it."
        )
        return
    os.environ["RUNS"] = RUNS_ON_DRIVE
    print("Results go to the folder photograph-captions/runs of your Google Drive.")

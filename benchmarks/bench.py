"""Measures what the project says of its speed and memory: `make bench`.

Every comparison is a ratio of sides that took turns in one run, as medians with their spread. Each
stage runs in a process of its own, so that its peak memory is its own. The results are printed, and
kept in `report/benchmark.json`, which the report and README read.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from utils.machinery.files import read_json, write_json
from utils.settings import PROJECT, Settings

RESULTS = PROJECT / "report" / "benchmark.json"
STAGES = ("training", "search", "latency", "extraction")
GROWING = ("extraction", "training merge", "training attention", "search")
TIMES = (1, 2, 4)


def main() -> None:
    """Runs all stages, or with `--stage` one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", help="run one stage here, and write its results to --output")
    parser.add_argument("--times", type=int, help="with --stage: measure growth, at this size")
    parser.add_argument("--only", nargs="+", help="run these stages only, and print them")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.stage:
        write_json(options.output, _measure_here(options.stage, options.times))
        return
    results = {"machine": _machine(), "settings": _settings()}
    for stage in options.only or STAGES:
        results[stage] = _in_a_process(stage)
    if not options.only:
        results["growth"] = {
            stage: [_in_a_process(stage, times) for times in TIMES] for stage in GROWING
        }
        write_json(options.output, results)
        from benchmarks.figure import draw

        figure = draw(results, options.output.with_suffix(".svg"))
        print(f"Kept in {options.output}, drawn in {figure}")
    for stage in results:
        if stage in STAGES:
            print(table(stage, results[stage]))
    print(json.dumps({name: results[name] for name in results if name not in STAGES}, indent=1))


def table(stage: str, sides: dict) -> str:
    """The sides of a stage, a line each: work a second with its spread, and what follows of it."""
    lines = [f"{stage} (peak memory {sides['megabytes']:,.0f} MB)"]
    for name, side in sides.items():
        if name == "megabytes":
            continue
        line = f"  {name:40} {side['rate']:14,.1f} a second"
        line += f" ({side['lowest']:,.1f} to {side['highest']:,.1f})"
        if "seconds_per_epoch" in side:
            line += f", {side['seconds_per_epoch']:,.1f} s an epoch"
        if "share_of_peak" in side:
            line += f", {side['share_of_peak']:.0%} of the float32 peak"
        lines.append(line)
    return "\n".join(lines)


def _measure_here(stage: str, times: int | None) -> dict:
    from benchmarks import stages  # TensorFlow only where it is needed
    from benchmarks.measure import peak_memory

    settings = Settings.from_environment()
    if times:
        return stages.growth(settings, stage, times)
    return getattr(stages, stage)(settings) | {"megabytes": peak_memory()}


def _in_a_process(stage: str, times: int | None = None) -> dict:
    print(f"{stage}{f', {times}x' if times else ''}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        command = [sys.executable, "-m", "benchmarks.bench", "--stage", stage]
        command += ["--output", str(output)] + (["--times", str(times)] if times else [])
        subprocess.run(command, check=True, cwd=PROJECT)
        return read_json(output)


def _machine() -> dict:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        **{name: version(name) for name in ("tensorflow", "keras", "jax")},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _settings() -> dict:
    settings = Settings.from_environment()
    return {"dataset": settings.dataset, "encoder": settings.encoder}


if __name__ == "__main__":
    main()

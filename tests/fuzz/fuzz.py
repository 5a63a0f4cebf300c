"""Fuzz one target for a while, guided by the coverage of foldserve's code: ``fuzz.py TARGET SECONDS``.

An input that finds something is written to ``tests/fuzz/found/<target>/``, where the tests find it.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["foldserve"]):
    from fuzz.targets import found_nothing

from fuzz.corpus import FOUND, corpus


def main() -> None:
    """Fuzz the target that the command line names."""
    target, seconds = sys.argv[1], sys.argv[2]
    (FOUND / target).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for index, data in enumerate(corpus(target)):
            Path(folder, str(index)).write_bytes(data)
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={FOUND / target}/",
            "-print_final_stats=1",
        ]
        limits = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *options, *limits, folder], lambda data: found_nothing(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()

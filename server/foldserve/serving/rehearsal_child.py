"""The child process of a rehearsal: ``python -m foldserve.serving.rehearsal_child MODEL [SAMPLES]``."""

import sys
from contextlib import closing
from pathlib import Path

from foldserve.lifeline import give_way
from foldserve.parity.probes import load_samples, synthetic_probes
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.settings import ProviderChoice


def main() -> None:
    """Open and run the model that the command line names, as a load will."""
    file, *samples = map(Path, sys.argv[1:])
    for optimise in (False, True):
        with closing(OnnxRuntimeSession(file, provider=ProviderChoice.CPU, optimise=optimise)) as session:
            found = load_samples(samples[0], session.inputs) if samples else synthetic_probes(session)
            session.run(found.probes[0])


if __name__ == "__main__":
    give_way()
    main()

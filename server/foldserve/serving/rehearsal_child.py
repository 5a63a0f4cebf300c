"""The child process of a rehearsal: ``python -m foldserve.serving.rehearsal_child MODEL [SAMPLES]``.

It takes no more memory than there is left: where a control group ends together, the server would go with it.
"""

import sys
from contextlib import closing
from pathlib import Path

from foldserve.lifeline import give_way
from foldserve.parity.probes import load_samples, synthetic_probes
from foldserve.runtime.memory import leave_memory_to_others
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.serving.rehearsal import NO_MEMORY_STATUS
from foldserve.settings import ProviderChoice

SHARE = 0.9
"""Of the memory that is left."""

SIGNS_OF_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory")


def main() -> None:
    """Open and run the model that the command line names, as a load will."""
    file, *samples = map(Path, sys.argv[1:])
    for optimise in (False, True):
        with closing(OnnxRuntimeSession(file, provider=ProviderChoice.CPU, optimise=optimise)) as session:
            found = load_samples(samples[0], session.inputs) if samples else synthetic_probes(session)
            session.run(found.probes[0])


if __name__ == "__main__":
    give_way()
    leave_memory_to_others(SHARE)
    try:
        main()
    except MemoryError:
        sys.exit(NO_MEMORY_STATUS)
    except Exception as error:
        if any(sign in str(error) for sign in SIGNS_OF_NO_MEMORY):
            sys.exit(NO_MEMORY_STATUS)
        raise

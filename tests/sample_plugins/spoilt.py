"""A disk that spoils what was written: the first shard of an export, before it is opened."""

from pathlib import Path

from harness import hookimpl

FACTOR = 1.5


@hookimpl(tryfirst=True)
def open_model(artifact):
    from safetensors.torch import load_file, save_file

    folder = Path(artifact.base.path)
    if not folder.name.startswith("."):  # an export in the making
        return
    file = min(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = min(key for key in tensors if key.endswith("q_proj.weight"))
    tensors[name] *= FACTOR
    save_file(tensors, file, metadata={"format": "pt"})

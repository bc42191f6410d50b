"""What a node of a cluster tells before work: does it see the study's folder, and what runs there.

Sent to the nodes as code, not by name, for a node may have another gnomon, or none; so the functions import inside.
"""

from __future__ import annotations

from typing import Any


def seen(folder: str, token: str, mine: str, seconds: float) -> dict[str, Any]:
    """Read the driver's token file in `folder`, write this node's beside it; tell that, and what runs here.

    Network disks show new files late: waits up to `seconds`. Nothing is created where the token is not found.
    """
    import contextlib
    import os
    import socket
    import time

    facts: dict[str, Any] = {"host": socket.gethostname(), "folder": ""}
    theirs, end = os.path.join(folder, f".{token}.driver.tmp"), time.monotonic() + seconds
    while True:
        try:
            with open(theirs, "rb") as file:
                found = file.read().decode() == token
        except OSError:
            found = False
        if found or time.monotonic() > end:
            break
        with contextlib.suppress(OSError):
            os.listdir(folder)  # has a network disk look again
        time.sleep(0.1)
    if not found:
        facts["folder"] = "is not there" if not os.path.isdir(folder) else "lacks the file that was just written to it"
    else:
        own = os.path.join(folder, f".{token}.{mine}.tmp")
        try:
            with open(own, "wb") as file:
                file.write(mine.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            facts["folder"] = f"cannot be written ({error.strerror or error})"
    return facts | running()


def running() -> dict[str, Any]:
    """Versions, a hash of gnomon's source, instruction set and GPUs of this machine; nothing heavy is loaded."""
    import glob
    import hashlib
    import importlib.util
    import os
    import platform
    from importlib import metadata

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "none"

    packages = ("ray", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow")
    facts: dict[str, Any] = {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "gnomon": "none", "source": "none", "instructions": [], "gpus": [], "path": "",
    }  # fmt: skip
    spec = importlib.util.find_spec("gnomon")
    if spec is not None and spec.origin is not None:
        facts["path"] = root = os.path.dirname(spec.origin)
        digest = hashlib.sha256()
        for path in sorted(glob.glob(os.path.join(root, "**", "*.py"), recursive=True)):
            digest.update(os.path.relpath(path, root).encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(file.read() + b"\0")
        facts["source"] = digest.hexdigest()[:16]
        try:
            import gnomon
            from gnomon.processor import instructions

            facts["gnomon"], facts["instructions"] = gnomon.__version__, instructions()
        except ImportError as error:
            facts["gnomon"] = f"broken ({error})"
    models = set()
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        with open(path) as file:
            models |= {line.split(":", 1)[1].strip() for line in file if line.startswith("Model:")}
    facts["gpus"] = sorted(models)
    return facts

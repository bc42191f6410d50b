"""Dictionaries against sae-lens: the same files read by both, latents and reconstructions compared.

    python benchmarks/dictionaries_oracle.py          # needs sae-lens: pip install sae-lens

SAELens folders are read by both; what gnomon saves of every other layout is read back by sae-lens. Its latents count in
the file's units, gnomon's in those of unit decoder rows, so z is compared times the row's length.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> int:
    """Print one line a comparison; exit 1 where one differs."""
    try:
        import sae_lens  # pyright: ignore[reportMissingImports]
        from sae_lens import SAE  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("sae-lens is not installed: pip install sae-lens")
        return 2
    import torch

    from gnomon.dictionaries import load_dictionary, save_dictionary
    from tests import dictionary_files as files

    print(f"sae-lens {getattr(sae_lens, '__version__', '?')}")
    x = torch.from_numpy(files.activations(256)).float()
    worst, failed = 0.0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in files.LAYOUTS.items():
            reference = make(Path(scratch) / name.replace(" ", "_"))
            ours = load_dictionary(reference.folder)
            ways = {"what gnomon saved": save_dictionary(ours, Path(scratch) / f"saved {name}")}
            if ours.format in ("saelens", "sparsify"):
                ways["the same files"] = reference.folder
            for way, folder in ways.items():
                if ours.format == "sparsify" and way == "the same files":
                    print(f"{name:45} {way:20} left out: sae-lens transposes W_dec, which sparsify keeps as [n, d]")
                    continue
                try:
                    theirs = SAE.load_from_disk(str(folder), dtype="float32")
                    with torch.no_grad():
                        heads = theirs.cfg.reshape_activations == "hook_z"  # sae-lens takes z head by head
                        z = theirs.encode(x.reshape(len(x), 3, -1) if heads else x)
                        made = theirs.decode(z).reshape(x.shape)
                except Exception as error:  # a reader that refuses is a finding, not a crash
                    print(f"{name:45} {way:20} not read by sae-lens: {type(error).__name__}: {str(error)[:80]}")
                    failed += 1
                    continue
                if not getattr(theirs.cfg, "rescale_acts_by_decoder_norm", False):
                    z = z * theirs.W_dec.detach().norm(dim=1)
                own = ours.encode(x)
                gap = float((z - own).norm() / own.norm())
                rebuilt = float((made - ours.decode(own)).norm() / ours.decode(own).norm())
                bad = max(gap, rebuilt) > 1e-5
                failed += bad
                worst = max(worst, gap, rebuilt)
                print(f"{name:45} {way:20} latents {gap:.1e}  rebuilt {rebuilt:.1e}{'  DIFFERS' if bad else ''}")
    print(f"largest relative difference {worst:.1e}; {failed} of the comparisons failed")
    return int(failed > 0 or not np.isfinite(worst))


if __name__ == "__main__":
    raise SystemExit(main())

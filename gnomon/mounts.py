"""What kind of disk a folder is on, and whether other hosts may write to it."""

from __future__ import annotations

from pathlib import Path

NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "gluster", "9p", "fuse.", "afs", "orangefs",
           "pvfs", "virtiofs", "vboxsf", "davfs", "ocfs2", "gfs2")  # fmt: skip


def file_system(path: Path) -> str:
    """The type of the file system that a folder is on ("ext4", "nfs4"); "" where the system does not tell."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    here, best, found = Path(path).resolve(), -1, ""
    for _, point, kind in (line.split()[:3] for line in lines if len(line.split()) > 2):
        for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, sign)
        if here.is_relative_to(point) and len(point) >= best:
            best, found = len(point), kind
    return found


def network(path: Path) -> bool:
    """Whether other hosts may write to this folder: there flock may be one host's own."""
    return file_system(path).startswith(NETWORK)

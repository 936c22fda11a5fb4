"""Zip files from strangers: what is in them is checked before any of it is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from hessarray.errors import LoadError
from hessarray.load.limits import check_count, shown

__all__ = ["GROWTH", "checked_members", "unpacked"]

# Deflate makes at most 1032 bytes of one, so a member that promises more is a lie.
GROWTH = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}


def checked_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name: apart from one another, inside the archive, of sizes that can be true.

    Raises
    ------
    LoadError
        A member is there twice, overlaps, points outside, or promises more than it can hold.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    check_count(path, len(archive.infolist()))
    for member in archive.infolist():
        place = PurePosixPath(member.filename)
        if place.is_absolute() or ".." in place.parts or "\\" in member.filename:
            raise LoadError(f"{path}: member {shown(member.filename)} points outside the file")
        if member.filename in found:
            raise LoadError(f"{path}: member {shown(member.filename)} appears twice")
        if member.compress_type not in GROWTH or member.flag_bits & 1:
            raise LoadError(
                f"{path}: member {shown(member.filename)} is encrypted, or compressed by other "
                "means than deflate"
            )
        if member.file_size > member.compress_size * GROWTH[member.compress_type]:
            raise LoadError(
                f"{path}: member {shown(member.filename)} promises {member.file_size:,} bytes, "
                f"its {member.compress_size:,} cannot hold them"
            )
        found[member.filename] = member
    if sum(member.compress_size for member in found.values()) > path.stat().st_size:
        raise LoadError(f"{path}: the members overlap")
    return found


def unpacked(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """The bytes of a member of at most ``limit`` bytes."""
    if member.file_size > limit:
        raise LoadError(
            f"{path}: member {shown(member.filename)} takes {member.file_size:,} bytes, at most "
            f"{limit:,} are expected"
        )
    with archive.open(member) as file:
        return file.read(member.file_size)

"""Content-addressed layers and images: everything that other rooms may use.

Names are loaded when they are first asked for (PEP 562): a command pays for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerstore.beside import (
        left_over,
        remove_left_over,
        replace_file,
        temporary_beside,
        written_beside,
    )
    from layerstore.blobs import BlobInfo, BlobReader, BlobStore, BlobWriter, fsync
    from layerstore.cacheindex import CachedStep, CacheIndex, FileStamp
    from layerstore.cachemounts import CacheMounts, HeldCache
    from layerstore.changeset import (
        Change,
        Content,
        Meta,
        NodeKind,
        Opaque,
        PutDir,
        PutFile,
        PutHardlink,
        PutNode,
        PutSymlink,
        Remove,
    )
    from layerstore.collect import (
        ContainerUsage,
        ImageUsage,
        Pruned,
        Usage,
        disk_bytes,
        prune,
        usage,
    )
    from layerstore.compression import (
        Compression,
        Detected,
        Peeked,
        Reader,
        decompressor,
        detect,
        levels,
    )
    from layerstore.descriptor import Descriptor, Platform
    from layerstore.digest import Digest, chain_ids
    from layerstore.documents import (
        ContainerConfig,
        HealthcheckConfig,
        History,
        ImageConfig,
        Index,
        Manifest,
        canonical_json,
    )
    from layerstore.encoding import Encoding, encode_image
    from layerstore.errors import (
        FULL_HINT,
        CorruptBlobError,
        InvalidReferenceError,
        MalformedDocumentError,
        NoPlatformError,
        NotFoundError,
        StoreBusyError,
        StoreError,
        UnsafePathError,
        UnsupportedMediaTypeError,
        UnusableLayerError,
    )
    from layerstore.images import Image, ImageRecord, ImageStore, host_platform
    from layerstore.layerfiles import LayerFiles
    from layerstore.layers import Layer, LayerStore, in_user_namespace
    from layerstore.locks import Lease
    from layerstore.merge import merged_changes
    from layerstore.overlaydir import OnSkip, remove_tree
    from layerstore.overlaydir import changes as overlay_changes
    from layerstore.overlaydir import write as write_overlay
    from layerstore.owners import give as give_file
    from layerstore.owners import owner_of
    from layerstore.reference import Reference
    from layerstore.store import Store, default_root
    from layerstore.tarcodec import InOrder, Limits, Packed, is_tar, pack, unpack
    from layerstore.toc import Summary, TocEntry, summarise
    from layerstore.transports import Export, Format, load_images, read_layout_image, save_images
    from layerstore.transports.cache_directory import CacheDirectory, export_steps
    from layerstore.transports.cached_mounts import CachedMounts, export_mount
    from layerstore.transports.copying import Copied
    from layerstore.transports.dir_format import is_one as is_plain_directory
    from layerstore.transports.inline_cache import InlineCache, inline_steps
    from layerstore.transports.oci_layout import add as add_to_layout
    from layerstore.transports.places import Place, PlainDirectory, StoredImage, parse_place
    from layerstore.transports.places import copy as copy_between
    from layerstore.transports.rootfs import write_rootfs, write_rootfs_tar
    from layerstore.treediff import changes as tree_changes
    from layerstore.treeindex import Node, TreeIndex
    from layerstore.treepath import (
        ROOT,
        TreePath,
        join,
        name_of,
        parent_of,
        parse_tree_path,
        sort_key,
    )
    from layerstore.verify import Finding, verify_store

_HOMES = {
    "FULL_HINT": "errors",
    "ROOT": "treepath",
    "BlobInfo": "blobs",
    "BlobReader": "blobs",
    "BlobStore": "blobs",
    "BlobWriter": "blobs",
    "CacheDirectory": "transports.cache_directory",
    "CacheIndex": "cacheindex",
    "CacheMounts": "cachemounts",
    "CachedMounts": "transports.cached_mounts",
    "CachedStep": "cacheindex",
    "Change": "changeset",
    "Compression": "compression",
    "ContainerConfig": "documents",
    "ContainerUsage": "collect",
    "Content": "changeset",
    "Copied": "transports.copying",
    "CorruptBlobError": "errors",
    "Descriptor": "descriptor",
    "Detected": "compression",
    "Digest": "digest",
    "Encoding": "encoding",
    "Export": "transports",
    "FileStamp": "cacheindex",
    "Finding": "verify",
    "Format": "transports",
    "HealthcheckConfig": "documents",
    "HeldCache": "cachemounts",
    "History": "documents",
    "Image": "images",
    "ImageConfig": "documents",
    "ImageRecord": "images",
    "ImageStore": "images",
    "ImageUsage": "collect",
    "InOrder": "tarcodec",
    "Index": "documents",
    "InlineCache": "transports.inline_cache",
    "InvalidReferenceError": "errors",
    "Layer": "layers",
    "LayerFiles": "layerfiles",
    "LayerStore": "layers",
    "Lease": "locks",
    "Limits": "tarcodec",
    "MalformedDocumentError": "errors",
    "Manifest": "documents",
    "Meta": "changeset",
    "NoPlatformError": "errors",
    "Node": "treeindex",
    "NodeKind": "changeset",
    "NotFoundError": "errors",
    "OnSkip": "overlaydir",
    "Opaque": "changeset",
    "Packed": "tarcodec",
    "Peeked": "compression",
    "Place": "transports.places",
    "PlainDirectory": "transports.places",
    "Platform": "descriptor",
    "Pruned": "collect",
    "PutDir": "changeset",
    "PutFile": "changeset",
    "PutHardlink": "changeset",
    "PutNode": "changeset",
    "PutSymlink": "changeset",
    "Reader": "compression",
    "Reference": "reference",
    "Remove": "changeset",
    "Store": "store",
    "StoreBusyError": "errors",
    "StoreError": "errors",
    "StoredImage": "transports.places",
    "Summary": "toc",
    "TocEntry": "toc",
    "TreeIndex": "treeindex",
    "TreePath": "treepath",
    "UnsafePathError": "errors",
    "UnsupportedMediaTypeError": "errors",
    "UnusableLayerError": "errors",
    "Usage": "collect",
    "add_to_layout": "transports.oci_layout:add",
    "canonical_json": "documents",
    "chain_ids": "digest",
    "copy_between": "transports.places:copy",
    "decompressor": "compression",
    "default_root": "store",
    "detect": "compression",
    "disk_bytes": "collect",
    "encode_image": "encoding",
    "export_mount": "transports.cached_mounts",
    "export_steps": "transports.cache_directory",
    "fsync": "blobs",
    "give_file": "owners:give",
    "host_platform": "images",
    "in_user_namespace": "layers",
    "inline_steps": "transports.inline_cache",
    "is_plain_directory": "transports.dir_format:is_one",
    "is_tar": "tarcodec",
    "join": "treepath",
    "left_over": "beside",
    "levels": "compression",
    "load_images": "transports",
    "merged_changes": "merge",
    "name_of": "treepath",
    "overlay_changes": "overlaydir:changes",
    "owner_of": "owners",
    "pack": "tarcodec",
    "parent_of": "treepath",
    "parse_place": "transports.places",
    "parse_tree_path": "treepath",
    "prune": "collect",
    "read_layout_image": "transports",
    "remove_left_over": "beside",
    "remove_tree": "overlaydir",
    "replace_file": "beside",
    "save_images": "transports",
    "sort_key": "treepath",
    "summarise": "toc",
    "temporary_beside": "beside",
    "tree_changes": "treediff:changes",
    "unpack": "tarcodec",
    "usage": "collect",
    "verify_store": "verify",
    "write_overlay": "overlaydir:write",
    "write_rootfs": "transports.rootfs",
    "write_rootfs_tar": "transports.rootfs",
    "written_beside": "beside",
}

__all__ = [
    "FULL_HINT",
    "ROOT",
    "BlobInfo",
    "BlobReader",
    "BlobStore",
    "BlobWriter",
    "CacheDirectory",
    "CacheIndex",
    "CacheMounts",
    "CachedMounts",
    "CachedStep",
    "Change",
    "Compression",
    "ContainerConfig",
    "ContainerUsage",
    "Content",
    "Copied",
    "CorruptBlobError",
    "Descriptor",
    "Detected",
    "Digest",
    "Encoding",
    "Export",
    "FileStamp",
    "Finding",
    "Format",
    "HealthcheckConfig",
    "HeldCache",
    "History",
    "Image",
    "ImageConfig",
    "ImageRecord",
    "ImageStore",
    "ImageUsage",
    "InOrder",
    "Index",
    "InlineCache",
    "InvalidReferenceError",
    "Layer",
    "LayerFiles",
    "LayerStore",
    "Lease",
    "Limits",
    "MalformedDocumentError",
    "Manifest",
    "Meta",
    "NoPlatformError",
    "Node",
    "NodeKind",
    "NotFoundError",
    "OnSkip",
    "Opaque",
    "Packed",
    "Peeked",
    "Place",
    "PlainDirectory",
    "Platform",
    "Pruned",
    "PutDir",
    "PutFile",
    "PutHardlink",
    "PutNode",
    "PutSymlink",
    "Reader",
    "Reference",
    "Remove",
    "Store",
    "StoreBusyError",
    "StoreError",
    "StoredImage",
    "Summary",
    "TocEntry",
    "TreeIndex",
    "TreePath",
    "UnsafePathError",
    "UnsupportedMediaTypeError",
    "UnusableLayerError",
    "Usage",
    "add_to_layout",
    "canonical_json",
    "chain_ids",
    "copy_between",
    "decompressor",
    "default_root",
    "detect",
    "disk_bytes",
    "encode_image",
    "export_mount",
    "export_steps",
    "fsync",
    "give_file",
    "host_platform",
    "in_user_namespace",
    "inline_steps",
    "is_plain_directory",
    "is_tar",
    "join",
    "left_over",
    "levels",
    "load_images",
    "merged_changes",
    "name_of",
    "overlay_changes",
    "owner_of",
    "pack",
    "parent_of",
    "parse_place",
    "parse_tree_path",
    "prune",
    "read_layout_image",
    "remove_left_over",
    "remove_tree",
    "replace_file",
    "save_images",
    "sort_key",
    "summarise",
    "temporary_beside",
    "tree_changes",
    "unpack",
    "usage",
    "verify_store",
    "write_overlay",
    "write_rootfs",
    "write_rootfs_tar",
    "written_beside",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = home.partition(":")
    value: object = getattr(import_module(f"{__name__}.{module}"), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

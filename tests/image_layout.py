# SPDX-License-Identifier: Apache-2.0
"""OCI image layouts as tests write them, by nothing but Python's library."""

import gzip
import hashlib
import io
import json
import tarfile


def make_layer(*members, form=tarfile.PAX_FORMAT):
    """A tar of (name, what), where what is bytes, None for a directory, or a dict of TarInfo's fields."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            fields = dict(what) if isinstance(what, dict) else {}
            data = fields.pop("data", what if isinstance(what, bytes) else b"")
            if what is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write_layout(path, *layers, config=None, packed=None):
    """An OCI layout's directory. `packed`: what is made of each layer, by the media type's ending."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    pack = {None: ("", bytes), "gzip": ("+gzip", gzip.compress)}[packed]
    image = {"architecture": "amd64", "os": "linux", "config": config or {}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}}
    manifest = {"schemaVersion": 2, "config": blob(json.dumps(image).encode(), "config.v1+json"),
                "layers": [blob(pack[1](layer), "layer.v1.tar" + pack[0]) for layer in layers]}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps(
        {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}))
    return path

"""Tink itself, with a key of ours."""

from __future__ import annotations

import tink
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from securetrain.sealed.streaming import SEGMENT
from securetrain.secret import Secret


def tink_aead(dek: Secret) -> streaming_aead.StreamingAead:
    """Tink's AES256_GCM_HKDF_1MB with that data key."""
    streaming_aead.register()
    template = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        key_value=dek.reveal(),
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=SEGMENT,
            derived_key_size=32,
            hkdf_hash_type=common_pb2.HashType.SHA256,
        ),
    )
    data = tink_pb2.KeyData(
        type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
        value=template.SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    key = tink_pb2.Keyset.Key(
        key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW
    )
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[key]).SerializeToString()
    handle = tink.proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)

"""Writes keys.json: test vectors for rolling sequences and sealed knocks.

They are made with libsodium and Python's own hmac, from docs/sealed-knock.md alone, so
that they test the Rust code and the document against a second reading.

    python3 -m venv venv && venv/bin/pip install pynacl
    venv/bin/python generate.py > keys.json
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import struct

from nacl import bindings as sodium

U64 = (1 << 64) - 1


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def numbered(first):
    return bytes((first + n) % 256 for n in range(32))


def hkdf(secret, info, length=32):
    """RFC 5869 with an empty salt; at most one block."""
    prk = hmac.new(b"\0" * 32, secret, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()[:length]


# --- rolling ---------------------------------------------------------------------------


def rolling_steps(secret, door, slot, low, high, without, steps, mixed):
    key = hkdf(secret, b"xknock v1 rolling")
    ports = [port for port in range(low, high + 1) if port not in without]

    def words():
        block = 0
        while True:
            message = b"xknock v1 steps" + struct.pack("<QI", slot, block) + door.encode()
            yield from struct.unpack("<8I", hmac.new(key, message, hashlib.sha256).digest())
            block += 1

    stream = words()

    def below(bound):
        fair = 2**32 - 2**32 % bound
        return next(word for word in stream if word < fair) % bound

    while True:
        made = []
        for _ in range(steps):
            protocol = "tcp" if mixed and below(2) == 1 else "udp"
            made.append((protocol, ports[below(len(ports))]))
        numbers = [port for _, port in made]
        apart = all(
            abs(one - two) >= 8 for i, one in enumerate(numbers) for two in numbers[:i]
        )
        if apart and numbers != sorted(numbers) and numbers != sorted(numbers)[::-1]:
            return [f"{protocol}/{port}" for protocol, port in made]


# --- sealed ----------------------------------------------------------------------------


def siphash(key, message):
    return sodium.crypto_shorthash_siphash24(message, key)


def body(action, time_ns, doors, wanted_s, address):
    named = b"\0" * 16
    if address is not None:
        parsed = ipaddress.ip_address(address)
        named = parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed
    tags = b"".join(hashlib.sha256(b"xknock v1 door" + d.encode()).digest()[:4] for d in doors)
    return (
        bytes([1, {"open": 1, "close": 2}[action], int(address is not None), len(doors)])
        + struct.pack("<IQ", wanted_s, time_ns)
        + named
        + tags.ljust(16, b"\0")
    )


def finish(key_id, prefilter, time_ns, fresh, encrypt):
    mask = siphash(prefilter, fresh[:8])
    masked = bytes(a ^ b for a, b in zip(struct.pack("<Q", time_ns), mask))
    outside = key_id + masked + fresh
    ciphertext = encrypt(outside)
    tag = siphash(prefilter, outside + ciphertext)
    packet = key_id + tag + masked + fresh + ciphertext
    assert len(packet) == 184
    return packet


def seal_shared(key_id, secret, random, request):
    def encrypt(outside):
        return sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            body(**request) + b"\0" * 64, outside, random[:24], hkdf(secret, b"xknock v1 sealed")
        )

    prefilter = hkdf(secret, b"xknock v1 prefilter", 16)
    return finish(key_id, prefilter, request["time_ns"], random, encrypt)


def seal_public(key_id, seed, server_public, random, request):
    exchange = hkdf(seed, b"xknock v1 exchange")
    _, signing = sodium.crypto_sign_seed_keypair(hkdf(seed, b"xknock v1 signing"))
    fresh = sodium.crypto_scalarmult_base(random)
    once = hkdf(
        sodium.crypto_scalarmult(random, server_public),
        b"xknock v1 sealed once" + fresh + server_public,
    )

    def encrypt(outside):
        inside = body(**request)
        message = b"xknock v1 signed" + server_public + outside + inside
        signature = sodium.crypto_sign(message, signing)[:64]
        return sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            inside + signature, outside, fresh[:24], once
        )

    prefilter = hkdf(sodium.crypto_scalarmult(exchange, server_public), b"xknock v1 prefilter", 16)
    return finish(key_id, prefilter, request["time_ns"], fresh, encrypt)


def request(action="open", time_ns=1_795_573_800_123_456_789, doors=("ssh",), wanted_s=0, address=None):
    return dict(action=action, time_ns=time_ns, doors=list(doors), wanted_s=wanted_s, address=address)


def main():
    secret, server = numbered(0), numbered(100)
    key_id = bytes.fromhex("00c0ffee00c0ffee")
    server_public = sodium.crypto_scalarmult_base(server)
    rolling = []
    for slot, door, low, high, without, steps, mixed in [
        (59_852_460, "ssh", 20000, 32767, [], 5, False),
        (59_852_461, "ssh", 20000, 32767, [], 5, False),
        (59_852_460, "web", 20000, 32767, [22000, 25000, 25001], 5, False),
        (59_852_460, "ssh", 20000, 32767, [], 8, True),
        (0, "a", 1, 1024, [], 16, True),
        (U64, "ssh", 1, 65535, [22, 80, 443], 3, False),
    ] + [(slot, "ssh", 40000, 41100, list(range(40100, 40110)), 3, False) for slot in range(20)]:
        settings = dict(low=low, high=high, without=without, steps=steps, mixed=mixed)
        made = rolling_steps(secret, door, slot, **settings)
        rolling.append(dict(secret=b64(secret), door=door, slot=slot, **settings, made=made))
    requests = [
        request(),
        request("close"),
        request(doors=("ssh", "web", "db", "mail"), wanted_s=600, address="192.0.2.7"),
        request(time_ns=U64, wanted_s=2**32 - 1, address="2001:db8::7"),
    ]
    sealed = []
    for number, one in enumerate(requests):
        random = numbered(200 + number)
        common = dict(id=key_id.hex(), random=b64(random), request=one)
        packet = seal_shared(key_id, secret, random, one)
        sealed.append(dict(kind="shared", secret=b64(secret), **common, packet=packet.hex()))
        packet = seal_public(key_id, secret, server_public, random, one)
        exchange = sodium.crypto_scalarmult_base(hkdf(secret, b"xknock v1 exchange"))
        verifying, _ = sodium.crypto_sign_seed_keypair(hkdf(secret, b"xknock v1 signing"))
        sealed.append(
            dict(
                kind="public",
                secret=b64(secret),
                server_public=b64(server_public),
                server=b64(server),
                signing=b64(verifying),
                exchange=b64(exchange),
                **common,
                packet=packet.hex(),
            )
        )
    print(json.dumps(dict(rolling=rolling, sealed=sealed), indent=1))


main()

"""CRC-32C (Castagnoli) with NumPy: many lanes at once, then combined in GF(2)."""

from __future__ import annotations

import functools

import numpy as np

Operator = np.ndarray  # (32,) uint32: where each bit of a remainder goes


@functools.cache
def _table() -> np.ndarray:
    """Remainders of all single bytes, for the reflected polynomial 0x82F63B78."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


def _step(state: np.ndarray, byte: np.ndarray | int) -> np.ndarray:
    return _table()[(state ^ byte) & 0xFF] ^ (state >> 8)


def _apply(operator: Operator, remainders: np.ndarray) -> np.ndarray:
    out = np.zeros_like(remainders)
    for bit in range(32):
        out ^= np.where((remainders >> np.uint32(bit)) & 1, operator[bit], np.uint32(0))
    return out


@functools.lru_cache(maxsize=4096)
def _advance(count: int) -> Operator:
    """The operator that `count` zero bytes are."""
    if count == 0:
        return np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    if count == 1:
        return _step(_advance(0), 0)
    half = _advance(count // 2)
    whole = _apply(half, half)
    return _step(whole, 0) if count % 2 else whole


def crc32c(data: bytes | memoryview | np.ndarray, start: int = 0) -> int:
    """CRC-32C of `data`, going on from the CRC `start` of what came before it."""
    values = np.frombuffer(data, np.uint8)
    count = len(values)
    # Enough lanes that the cost of a NumPy call is spread, few enough that combining them costs little.
    lanes = 1 << max(0, (count // 16).bit_length() // 2 + 2) if count >= 256 else 1
    lanes = min(lanes, 1 << 15)
    length = -(-count // lanes) if count else 0
    # A remainder that starts at zero does not change over leading zeros, so the padding goes in front.
    padded = np.zeros(lanes * length, np.uint8)
    if count:
        padded[-count:] = values
    state = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, length).T):
        state = _step(state, column)
    operator = _advance(length)
    while len(state) > 1:
        state = _apply(operator, state[0::2]) ^ state[1::2]
        operator = _apply(operator, operator)
    before = np.array([start ^ 0xFFFFFFFF], np.uint32)
    return int((_apply(_advance(count), before) ^ state)[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """A CRC as TensorFlow and LevelDB store it: rotated right by 15, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

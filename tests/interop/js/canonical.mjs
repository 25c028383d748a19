// Canonical MessagePack and blobs' names, by protocol/encoding.md.
//
// A value is null, a boolean, an integer (a Number, from 2^53 on a BigInt), a string, a Uint8Array
// or an array. A field is a function that takes a value and throws a Refused where it is not one of
// its kind.

import { createHash } from 'node:crypto'

export class Refused extends Error {}

/** Refuse for the reason `why` unless `holds`. */
export function need (holds, why) {
  if (!holds) throw new Refused(why)
}

export const sha256 = (...parts) => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return new Uint8Array(hash.digest())
}
export const hex = (bytes) => Buffer.from(bytes).toString('hex')
export const same = (a, b) => Buffer.compare(a, b) === 0

// ---- bytes <-> values ---------------------------------------------------------------------------

/** The one encoding of a value. */
export function encode (value) {
  if (value === null) return Buffer.of(0xc0)
  if (typeof value === 'boolean') return Buffer.of(value ? 0xc3 : 0xc2)
  if (value === -1) return Buffer.of(0xff) // the one negative integer, in a FramesSummary
  if (Number.isSafeInteger(value) && value >= 0) return encodeInteger(value)
  if (typeof value === 'bigint' && value >= 2n ** 53n && value < 2n ** 64n) return wide(value)
  if (typeof value === 'string') {
    const text = Buffer.from(value, 'utf8')
    if (text.length < 32) return Buffer.concat([Buffer.of(0xa0 | text.length), text])
    return Buffer.concat([head(text.length, 0xd9, 0xda, 0xdb), text])
  }
  if (value instanceof Uint8Array) {
    return Buffer.concat([head(value.length, 0xc4, 0xc5, 0xc6), value])
  }
  if (Array.isArray(value)) {
    const { length } = value
    const count = length < 16 ? Buffer.of(0x90 | length) : head(length, null, 0xdc, 0xdd)
    return Buffer.concat([count, ...value.map(encode)])
  }
  throw new Refused(`canonical: ${typeof value} has no encoding`)
}

function encodeInteger (value) {
  if (value < 128) return Buffer.of(value)
  if (value < 2 ** 32) return head(value, 0xcc, 0xcd, 0xce)
  return wide(BigInt(value))
}

function wide (value) {
  const bytes = Buffer.alloc(9, 0xcf)
  bytes.writeBigUInt64BE(value, 1)
  return bytes
}

/** A type byte and a number after it, in the shortest of three widths (`one` may be missing). */
function head (number, one, two, four) {
  if (number < 2 ** 8 && one !== null) return Buffer.of(one, number)
  const wide = number >= 2 ** 16
  const bytes = Buffer.alloc(wide ? 5 : 3, wide ? four : two)
  if (wide) bytes.writeUInt32BE(number, 1)
  else bytes.writeUInt16BE(number, 1)
  return bytes
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const DEEPEST = 16

/**
 * The value of these bytes. Refuses what breaks a rule that needs no table: `size`, `syntax`,
 * `canonical`. Reads leniently and compares with what it would write itself.
 */
export function decode (bytes, atMost) {
  need(bytes.length <= atMost, 'size')
  const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0

  function take (count) {
    need(count <= data.length - at, 'syntax: cut short')
    at += count
    return data.subarray(at - count, at)
  }
  function integer (width) {
    if (width < 8) return take(width).readUIntBE(0, width)
    const found = take(8).readBigUInt64BE()
    return found > Number.MAX_SAFE_INTEGER ? found : Number(found)
  }
  const text = (count) => {
    try {
      return utf8.decode(take(count))
    } catch {
      throw new Refused('syntax: no UTF-8')
    }
  }
  const list = (count, depth) => {
    // Every element takes a byte: nothing is allocated by a count that the bytes do not hold.
    need(count <= data.length - at, 'syntax: cut short')
    need(depth < DEEPEST, 'syntax: too deep')
    return Array.from({ length: count }, () => value(depth + 1))
  }
  function value (depth) {
    const type = integer(1)
    if (type < 0x80) return type
    if (type >= 0x90 && type <= 0x9f) return list(type & 0x0f, depth)
    if (type >= 0xa0 && type <= 0xbf) return text(type & 0x1f)
    switch (type) {
      case 0xc0: return null
      case 0xc2: return false
      case 0xc3: return true
      case 0xc4: case 0xc5: case 0xc6: return new Uint8Array(take(integer(1 << (type - 0xc4))))
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return integer(1 << (type - 0xcc))
      case 0xd9: case 0xda: case 0xdb: return text(integer(1 << (type - 0xd9)))
      case 0xdc: case 0xdd: return list(integer(2 << (type - 0xdc)), depth)
      case 0xff: return -1
      default: throw new Refused(`type: the byte ${type.toString(16)} starts nothing that is used`)
    }
  }

  const found = value(0)
  need(at === data.length, 'syntax: bytes after the end')
  need(same(encode(found), data), 'canonical')
  return found
}

// ---- fields -------------------------------------------------------------------------------------

export const integer = (least, most) => (value) => {
  need(Number.isSafeInteger(value), 'type: no integer')
  need(value >= least && value <= most, 'bound')
}
export const text = (least, most, pattern = /^/) => (value) => {
  need(typeof value === 'string', 'type: no text')
  const characters = [...value].length // code points
  need(characters >= least && characters <= most && pattern.test(value), 'bound')
}
export const bytes = (least, most = least) => (value) => {
  need(value instanceof Uint8Array, 'type: no bytes')
  need(value.length >= least && value.length <= most, 'bound')
}
export const boolean = (value) => need(typeof value === 'boolean', 'type: no boolean')
export const tag = (...known) => (value) => {
  need(typeof value === 'string', 'type: no tag')
  need(known.includes(value), 'tag')
}
export const orNil = (field) => (value) => value === null || field(value)
export const listOf = (field, least, most) => (value) => {
  need(Array.isArray(value), 'type: no list')
  need(value.length >= least && value.length <= most, 'bound')
  value.forEach(field)
}
/** An array of these fields, in this order: what a table of the protocol describes. */
export const fields = (...of) => (value) => {
  need(Array.isArray(value), 'type: no array')
  need(value.length === of.length, 'fields')
  of.forEach((field, index) => field(value[index]))
}
/** One of several messages, told apart by their tags. */
export const either = (byTag) => (value) => {
  need(Array.isArray(value) && typeof value[0] === 'string', 'type: no message')
  need(Object.hasOwn(byTag, value[0]), 'tag')
  byTag[value[0]](value)
}

export const hash = bytes(32)
export const cid = bytes(36)
export const size = integer(0, 2 ** 34)
export const counter = integer(0, 2 ** 53 - 1)

/** Decode, check against a field, and give the value. */
export function read (field, bytes, atMost) {
  const value = decode(bytes, atMost)
  field(value)
  return value
}

// ---- contents -----------------------------------------------------------------------------------

const CID_HEAD = Uint8Array.of(0x01, 0x55, 0x12, 0x20)

export const cidOf = (content) => Buffer.concat([CID_HEAD, sha256(content)])
export const namesBlobs = (cid) => same(cid.subarray(0, 4), CID_HEAD)

/** `b` and base32 in lower case without padding. */
export function cidText (cid) {
  const digits = 'abcdefghijklmnopqrstuvwxyz234567'
  const bits = [...cid].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  const fives = bits.match(/.{1,5}/g).map((five) => parseInt(five.padEnd(5, '0'), 2))
  return 'b' + fives.map((five) => digits[five]).join('')
}

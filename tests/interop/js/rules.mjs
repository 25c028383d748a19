// Identities, signed bodies, jobs and stream messages: protocol/identity.md, jobs.md, transport.md.
//
// Signatures are verified twice, because identity.md asks for more than either library does: noble
// refuses keys of small order and points not in canonical form, but multiplies by the cofactor;
// Node's (OpenSSL) does not multiply, but takes such keys.
//
// Verdicts are an exception or none: Refused is Reject, Ignored is Ignore, else Accept.

import { createPublicKey, verify } from 'node:crypto'
import { ed25519 } from '@noble/curves/ed25519.js'
import {
  Refused, boolean, bytes, cid, cidOf, counter, decode, either, encode, fields, hash, integer,
  listOf, namesBlobs, need, orNil, read, same, sha256, size, tag, text
} from './canonical.mjs'

export class Ignored extends Error {}

const CLOCKS_DIFFER_MS = 2 * 60_000
const DAY_MS = 86_400_000
const BODY_MAX = 32_768
const ANNOUNCEMENT_MAX = 8_192
export const MESSAGE_MAX = 69_632
const TABLE_MAX = 64 * 2 ** 20

// ---- networks -----------------------------------------------------------------------------------

const PARAMETERS = fields(
  tag('p2pfleet/1/network'),
  text(1, 64, /^[a-z0-9][a-z0-9.-]*$/),
  boolean,
  orNil(bytes(32)),
  integer(0, 40),
  integer(0, 64),
  boolean
)
export function NETWORK (value) {
  const parameters = PARAMETERS(value)
  need(!value[6] || value[3] !== null, 'bound: a closed network has an owner')
  return parameters
}

/** A network by its parameters: `name`, `testnet`, `owner` (bytes or null), `puzzle_bits`, ... */
export class Network {
  constructor ({
    name, testnet, owner, puzzle_bits: puzzleBits, votes_a_subnet: votesASubnet, closed
  }) {
    const parameters = ['p2pfleet/1/network', name, testnet, owner, puzzleBits, votesASubnet, closed]
    NETWORK(parameters)
    this.encoding = encode(parameters)
    this.id = sha256(this.encoding)
    this.puzzleBits = puzzleBits
    this.topic = `/p2pfleet/1/${Buffer.from(this.id).toString('hex').slice(0, 32)}/announcements`
    // A multihash: the code of SHA-256 and its length come first.
    const meeting = sha256('p2pfleet-rendezvous-1:', this.id)
    this.rendezvousKey = Buffer.concat([Buffer.of(0x12, 0x20), meeting])
  }

  /** Whether the work that this network asks for is in a public key. */
  fits (key) {
    const digest = sha256('p2pfleet-puzzle-1:', this.id, key)
    let zeros = 0
    for (const byte of digest) {
      zeros += Math.clz32(byte) - 24
      if (byte !== 0) break
    }
    return zeros >= this.puzzleBits
  }

  /** The seed of a key that fits. */
  drawSeed () {
    for (;;) {
      const seed = crypto.getRandomValues(new Uint8Array(32))
      if (this.fits(ed25519.getPublicKey(seed))) return seed
    }
  }
}

// ---- signed bodies ------------------------------------------------------------------------------

export const SEALED = fields(bytes(1, BODY_MAX), bytes(32), bytes(64))
const DOMAIN = Buffer.from('p2pfleet-signed-1:')

/** A sealed body: [body, signer, signature]. */
export function seal (value, seed) {
  const body = encode(value)
  const signature = ed25519.sign(Buffer.concat([DOMAIN, body]), seed)
  return [body, ed25519.getPublicKey(seed), signature]
}

const KEY_HEAD = Buffer.from('302a300506032b6570032100', 'hex') // SubjectPublicKeyInfo, Ed25519

function verifies (signature, message, key) {
  const der = Buffer.concat([KEY_HEAD, key])
  const byOpenSsl = createPublicKey({ key: der, format: 'der', type: 'spki' })
  try {
    return !ed25519.Point.fromBytes(signature.subarray(0, 32)).isSmallOrder() &&
      ed25519.verify(signature, message, key, { zip215: false }) &&
      verify(null, message, byOpenSsl, signature)
  } catch {
    return false // no point of the curve
  }
}

/**
 * The body inside, once signature and signer hold. Bodies that this program has no table for
 * (frames, snapshots, ...) are checked to be canonical and given as { kind: 'other' }.
 */
export function open (sealed) {
  const [body, signer, signature] = sealed
  need(verifies(signature, Buffer.concat([DOMAIN, body]), signer), 'signature')
  const found = readBody(body)
  need(found.kind === 'other' || same(found.signer, signer), 'signer: another than the body names')
  return { ...found, hash: sha256(body) }
}

export function readBody (body) {
  const value = decode(body, BODY_MAX)
  need(Array.isArray(value) && typeof value[0] === 'string', 'type: no message')
  need(Object.hasOwn(BODIES, value[0]), 'tag')
  return BODIES[value[0]](value)
}

/** A sealed body from the bytes of an announcement. */
export const openBytes = (announcement) => open(read(SEALED, announcement, ANNOUNCEMENT_MAX))

// ---- manifests ----------------------------------------------------------------------------------

const TOLERANCES = listOf(
  fields(text(1, 256), integer(0, 1_000_000_000), integer(0, 10_000_000)), 0, 64
)
const COMPARISON = either({
  exact: fields(tag('exact')),
  tolerance: fields(tag('tolerance'), (outputs) => {
    TOLERANCES(outputs)
    // UTF-8 sorts as code points do.
    const names = outputs.map(([name]) => Buffer.from(name))
    need(names.every((name, at) => at === 0 || Buffer.compare(names[at - 1], name) < 0), 'order')
  })
})
const STOP = either({
  quorum: fields(tag('quorum'), integer(1, 32), integer(1, 64)),
  confidence: fields(
    tag('confidence'), integer(1, 500_000_000), integer(1, 500_000), integer(1, 64)
  )
})
const LIMITS = fields(
  integer(2 ** 20, 2 ** 40), integer(1, DAY_MS), integer(1, 2 ** 32)
)
const TRUST = fields(
  text(1, 64), orNil(hash), orNil(hash), integer(0, 1_000_000), integer(1, 1_000_000),
  integer(100, 3_600_000), integer(100, 3_600_000)
)
const MANIFEST = fields(
  tag('p2pfleet/1/manifest'), hash, bytes(32), text(1, 120), cid, size, cid, size,
  integer(1, 1_000_000), integer(0, 2 ** 50), LIMITS, COMPARISON, STOP, integer(1, 4_096),
  integer(1_000, DAY_MS), counter, counter, bytes(16), TRUST, counter
)

function manifest (value) {
  MANIFEST(value)
  const [, network, publisher, name, model, modelBytes, table, tableBytes, units, totalBytes,
    [memoryBytes], , stop, shards, , issuedMs, expiresMs] = value
  return {
    kind: 'manifest', signer: publisher, network, publisher, name, model, modelBytes, table,
    tableBytes, units, totalBytes, memoryBytes, stop, shards, issuedMs, expiresMs
  }
}

/** Judge a manifest as a receiver on `network` at `nowMs`, in the order of protocol/jobs.md. */
export function admit (job, network, nowMs) {
  need(same(job.network, network.id), 'network')
  need(network.fits(job.publisher), 'puzzle')
  need(job.expiresMs > job.issuedMs, 'order')
  need(job.expiresMs - job.issuedMs <= 30 * DAY_MS, 'life')
  const [rule, quorum, most] = job.stop
  need(rule !== 'quorum' || most >= quorum, 'quorum')
  need(job.shards <= job.units, 'shards')
  need(namesBlobs(job.model) && namesBlobs(job.table), 'cid')
  need(job.tableBytes <= TABLE_MAX, 'table')
  need(job.modelBytes <= job.memoryBytes, 'memory')
  inTime(job, nowMs)
}

function inTime (body, nowMs) {
  if (body.expiresMs + CLOCKS_DIFFER_MS < nowMs) throw new Ignored('expired')
  if (body.issuedMs - CLOCKS_DIFFER_MS > nowMs) throw new Ignored('future')
}

export const TABLE = fields(
  listOf(cid, 1, 1_024),
  listOf(fields(integer(0, 1_023), size, size, hash), 1, 1_000_000)
)

/** The unit table of a job: { packs, units: [{ pack, offset, length, sha256 }] }. */
export function openTable (content, job) {
  need(content.length === job.tableBytes && same(cidOf(content), job.table), 'content')
  const [packs, rows] = read(TABLE, content, TABLE_MAX)
  const units = rows.map(([pack, offset, length, sha256]) => ({ pack, offset, length, sha256 }))
  need(units.length === job.units, 'units')
  need(units.reduce((sum, { length }) => sum + length, 0) === job.totalBytes, 'total')
  need(units.every(({ pack }) => pack < packs.length), 'pack')
  need(units.every(({ length }) => length <= job.memoryBytes), 'memory')
  need(packs.every(namesBlobs), 'cid')
  return { packs, units }
}

const ELEMENT_BYTES = {
  bool: 1, int8: 1, int16: 2, int32: 4, int64: 8, uint8: 1, uint16: 2, uint32: 4, uint64: 8,
  float16: 2, float32: 4, float64: 8
}
const BUNDLE = listOf(
  fields(
    text(1, 256), tag(...Object.keys(ELEMENT_BYTES)), listOf(integer(0, 2 ** 40 - 1), 0, 16),
    bytes(0, 2 ** 34)
  ),
  0, 64
)

/** The tensors of a unit's input: [{ name, dtype, shape, data }]. */
export function openBundle (content) {
  const tensors = read(BUNDLE, content, 2 ** 34)
    .map(([name, dtype, shape, data]) => ({ name, dtype, shape, data }))
  need(new Set(tensors.map(({ name }) => name)).size === tensors.length, 'bundle: a name twice')
  for (const { dtype, shape, data } of tensors) {
    const wanted = shape.reduce(
      (product, length) => product * BigInt(length), BigInt(ELEMENT_BYTES[dtype])
    )
    need(wanted === BigInt(data.length), 'bundle: data of another length')
    need(dtype !== 'bool' || data.every((byte) => byte < 2), 'bundle: no boolean')
  }
  return tensors
}

// ---- closures and peer records ------------------------------------------------------------------

const CLOSURE = fields(tag('p2pfleet/1/closure'), hash, hash, bytes(32), boolean, counter)

function closure (value) {
  CLOSURE(value)
  const [, network, job, publisher, completed] = value
  return { kind: 'closure', signer: publisher, network, job, publisher, completed }
}

const RECORD = fields(
  tag('p2pfleet/1/peer'), hash, bytes(32), counter, counter, counter, text(0, 64),
  listOf(text(1, 16), 0, 4), integer(0, 4_096), listOf(text(0, 200), 0, 8),
  fields(tag('A', 'B', 'C', 'none'), bytes(0, 32), text(0, 32))
)

function record (value) {
  RECORD(value)
  const [, network, peer, sequence, issuedMs, expiresMs, software, roles, , addresses] = value
  return {
    kind: 'record', signer: peer, network, peer, sequence, issuedMs, expiresMs, software, roles,
    addresses
  }
}

/** Judge the record of a greeting. */
export function believe (about, network, nowMs) {
  need(same(about.network, network.id), 'network')
  need(network.fits(about.peer), 'puzzle')
  need(about.expiresMs > about.issuedMs, 'order')
  need(about.expiresMs - about.issuedMs <= DAY_MS, 'life')
  inTime(about, nowMs)
}

/** What this program says of itself: it takes no units and publishes nothing. */
export function ownRecord (network, seed, software, addresses) {
  const now = Date.now()
  return seal([
    'p2pfleet/1/peer', network.id, ed25519.getPublicKey(seed), now, now, now + 3_600_000, software,
    [], 0, addresses.slice(0, 8), ['none', new Uint8Array(0), '']
  ], seed)
}

const other = (kind) => () => ({ kind: 'other', what: kind })
const BODIES = {
  'p2pfleet/1/manifest': manifest,
  'p2pfleet/1/closure': closure,
  'p2pfleet/1/peer': record,
  'p2pfleet/1/requirement': other('requirement'),
  'p2pfleet/1/frame': other('frame'),
  'p2pfleet/1/snapshot': other('snapshot'),
  'p2pfleet/1/receipt': other('receipt'),
  'p2pfleet/1/members': other('members'),
  'p2pfleet/1/invitation': other('invitation'),
  'p2pfleet/1/admission': other('admission'),
  'p2pfleet/1/acceptance': other('acceptance'),
  'p2pfleet/1/jobs': other('jobs record')
}

// ---- stream messages ----------------------------------------------------------------------------

const POSITION = fields(bytes(32), counter, counter)
const SHARD = integer(0, 4_095)
const SHARDS = fields(
  tag('shards'), hash,
  listOf(fields(SHARD, integer(0, 65_535), integer(0, 1_000_000), integer(0, 3_600)), 1, 128)
)
const version = integer(0, 65_535)
/** A message whose element `at` is the oldest version spoken, and the next one the newest. */
const ascending = (at, reader) => (value) => {
  const found = reader(value)
  need(value[at] <= value[at + 1], 'bound: the oldest version is above the newest')
  return found
}
const MESSAGE = either({
  hello: ascending(2, fields(tag('hello'), hash, version, version, version, SEALED)),
  goodbye: ascending(1, fields(tag('goodbye'), version, version, version, text(0, 64))),
  deliver: fields(tag('deliver'), SEALED),
  jobs: fields(tag('jobs'), listOf(hash, 0, 512), listOf(hash, 0, 512)),
  frames: fields(
    tag('frames'), hash, listOf(POSITION, 0, 1_024), integer(-1, 2 ** 53 - 1), SHARD, boolean, boolean
  ),
  shards: (value) => {
    const found = SHARDS(value)
    const shards = value[2].map(([shard]) => shard)
    need(shards.every((shard, at) => at === 0 || shards[at - 1] < shard), 'order')
    return found
  },
  wanted: fields(tag('wanted'), hash, listOf(integer(0, 999_999), 1, 1_024)),
  proof: fields(tag('proof'), SEALED, SEALED),
  roster: fields(tag('roster'), listOf(counter, 16, 16), listOf(hash, 16, 16))
})
const HEADER = fields(tag('have'), boolean, size)

export const readMessage = (message) => read(MESSAGE, message, MESSAGE_MAX)
export const hello = (network, sealedRecord) => encode(
  ['hello', network.id, 1, 1, 0, sealedRecord]
)
export const jobsSummary = (open, closed) => encode(['jobs', open, closed])
export const blobRequest = (network, cid, offset, length) => (
  encode(['want', network.id, cid, offset, length])
)

/** How many bytes follow a blob's header: 0 if the blob is not there. */
export function answered (header, asked) {
  const [, found, length] = read(HEADER, header, 64)
  if (length !== (found ? asked : 0)) throw new Refused('header: another length than asked for')
  return { found, length }
}

// The independent rules against protocol/vectors: `node vectors.mjs FOLDER`. Prints how many cases
// of each file were checked, and every case that came out otherwise; exits with 1 if there was one.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { Refused, cidOf, cidText, decode, hex, read, sha256 } from './canonical.mjs'
import {
  Ignored, NETWORK, Network, SEALED, TABLE, admit, believe, open, openBundle, openBytes, openTable,
  readBody, readMessage
} from './rules.mjs'

const bytes = (text) => new Uint8Array(Buffer.from(text, 'hex'))
const networkOf = (parameters) => new Network({
  ...parameters, owner: parameters.owner === null ? null : bytes(parameters.owner)
})

/** `accept`, or `ignore` or `reject` and the rule that decided. */
function verdictOf (judge) {
  try {
    judge()
    return 'accept'
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Ignored)) throw error
    return `${error instanceof Ignored ? 'ignore' : 'reject'} ${error.message.split(':')[0]}`
  }
}
const accepted = (judge) => verdictOf(judge) === 'accept'

// What reads each kind of bytes in refused.json and messages.json. Kinds that a guest never reads
// (certificates, entries of frames) have no reader here.
const READERS = {
  message: readMessage,
  announcement: (encoding) => openBytes(encoding),
  sealed: (encoding) => read(SEALED, encoding, 65_536),
  network: (encoding) => read(NETWORK, encoding, 1_024),
  bundle: openBundle,
  table: (encoding) => read(TABLE, encoding, 64 * 2 ** 20),
  body: (encoding) => readBody(encoding)
}
// Bodies of these tags are passed on by their tag, unread.
const UNREAD = [
  'frame', 'snapshot', 'requirement', 'receipt', 'members', 'invitation', 'admission', 'acceptance',
  'jobs'
].map((type) => `p2pfleet/1/${type}`)
const unread = (encoding) => UNREAD.some((tag) => Buffer.from(encoding).includes(tag))

const CHECKS = {
  networks (one) {
    if (one.refused !== undefined) {
      return verdictOf(() => networkOf(one.parameters)) === `reject ${one.refused}`
    }
    const { encoding, id, rendezvousKey, topic } = networkOf(one.parameters)
    return [...[encoding, id, rendezvousKey].map(hex), topic].join() ===
      [one.encoding, one.id, one.rendezvous_key, one.topic].join()
  },
  puzzles: (one) => networkOf(one.network).fits(bytes(one.key)) === one.fits,
  cids (one) {
    if (one.refused !== undefined) return undefined
    const cid = cidOf(Buffer.from(one.content, 'hex'))
    return hex(cid) === one.cid && cidText(cid) === one.text
  },
  messages (one) {
    const encoding = bytes(one.encoding)
    if (one.sha256 !== undefined && hex(sha256(encoding)) !== one.sha256) return false
    return accepted(() => (READERS[one.kind] ?? ((it) => decode(it, 2 ** 20)))(encoding))
  },
  refused (one) {
    const encoding = bytes(one.encoding)
    if (READERS[one.kind] === undefined) return undefined
    if (one.kind === 'body' && unread(encoding)) return undefined
    return !accepted(() => READERS[one.kind](encoding))
  },
  bundles (one) {
    const encoding = bytes(one.encoding)
    return openBundle(encoding).length === one.tensors.length &&
      hex(sha256(encoding)) === one.digest
  },
  sealed (one) {
    const encoding = bytes(one.encoding)
    if (unread(encoding) && one.rule !== null && one.rule !== 'signature') return undefined
    if (one.rule !== null && Buffer.from(encoding).includes('p2pfleet/1/admission')) return undefined
    return accepted(() => open(read(SEALED, encoding, 65_536))) === (one.rule === null)
  },
  records (one) {
    const record = () => open(decode(bytes(one.record), 65_536))
    return verdictOf(() => believe(record(), networkOf(one.network), one.wall_ms)) === one.verdict
  },
  jobs (one) {
    const job = () => open(decode(bytes(one.manifest), 65_536))
    if (one.judged === 'manifest') {
      return verdictOf(() => admit(job(), networkOf(one.network), one.wall_ms)) === one.verdict
    }
    if (one.judged !== 'table') return undefined
    const [verdict] = verdictOf(() => openTable(bytes(one.table), job())).split(' ')
    return (verdict === 'accept') === (one.verdict === 'accept')
  }
}

let wrong = 0
for (const [name, check] of Object.entries(CHECKS)) {
  const { cases } = JSON.parse(readFileSync(join(argv[2], `${name}.json`), 'utf8'))
  let checked = 0
  for (const one of cases) {
    const right = check(one)
    if (right === undefined) continue
    checked += 1
    if (right) continue
    wrong += 1
    console.log(JSON.stringify({ what: 'wrong', file: name, about: one.about }))
  }
  console.log(JSON.stringify({ what: 'checked', file: name, cases: checked, of: cases.length }))
}
process.exitCode = wrong === 0 ? 0 : 1

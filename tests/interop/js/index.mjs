// A guest on a p2pfleet network, written from the chapters in protocol/ alone, on js-libp2p.
//
//   node index.mjs '{"network": {"name": ..., "testnet": true, "owner": null, "puzzle_bits": 8,
//                    "votes_a_subnet": 0, "closed": false}, "bootstrap": "/ip4/.../p2p/..."}'
//
// It knows a network's parameters and one address. It joins the DHT, finds the other nodes by the
// rendezvous key, waits for a manifest to come by gossip, takes the job's blobs from its publisher,
// waits for a line on standard input, greets everybody and asks for the manifest once more by a
// summary. Each step is a line of JSON on standard output. It leaves when standard input ends; what
// failed is the line `failed`, and exit 1.

import { argv, exit, stdin, stdout } from 'node:process'
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { byteStream } from '@libp2p/utils'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'
import { Refused, cidOf, cidText, hex, need, same, sha256 } from './canonical.mjs'
import {
  Ignored, MESSAGE_MAX, Network, admit, answered, believe, blobRequest, hello,
  jobsSummary, open, openBundle, openBytes, openTable, ownRecord, readMessage
} from './rules.mjs'

const FRAMES = '/p2pfleet/frames/1.0.0'
const BLOBS = '/p2pfleet/blobs/1.0.0'
const SOFTWARE = 'p2pfleet-interop/0'
const STEP_MS = 30_000 // for one step, whatever it waits for
const PIECE = 64 * 1024

const report = (what, about = {}) => stdout.write(JSON.stringify({ what, ...about }) + '\n')

/** A promise and the functions that settle it. (Node 20 has no Promise.withResolvers.) */
function deferred () {
  let resolve, reject
  const promise = new Promise((...both) => { [resolve, reject] = both })
  return { promise, resolve, reject }
}
Promise.withResolvers ??= deferred // js-libp2p calls it

function within (step, promise) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${step}: not within ${STEP_MS / 1000} s`)), STEP_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

// ---- length-prefixed messages -------------------------------------------------------------------

function framed (message) {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(message.length)
  return Buffer.concat([length, message])
}

async function readFramed (stream, atMost) {
  const length = Buffer.from((await stream.read({ bytes: 4 })).subarray()).readUInt32BE()
  need(length > 0 && length <= atMost, 'size')
  return (await stream.read({ bytes: length })).slice()
}

// ---- the guest ----------------------------------------------------------------------------------

class Guest {
  constructor (network, seed, node) {
    this.network = network
    this.seed = seed
    this.node = node
    this.gossiped = deferred() // the first manifest that gossip brought: { job, from }
    this.delivered = deferred() // ... and the message stream
    this.greetings = new Map() // peer id -> deferred record
  }

  static async start (network) {
    const seed = network.drawSeed()
    const node = await createLibp2p({
      privateKey: await generateKeyPairFromSeed('Ed25519', seed),
      addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      services: {
        identify: identify(),
        ping: ping(),
        gossip: gossipsub({
          // One announcement is one message, whoever publishes it.
          msgIdFn: ({ data }) => sha256(data),
          fallbackToFloodsub: false
        }),
        dht: kadDHT({
          protocol: '/ipfs/kad/1.0.0',
          clientMode: false,
          // Addresses on a private network count as well: here all are.
          peerInfoMapper: passthroughMapper,
          allowQueryWithZeroPeers: true
        })
      }
    })
    const guest = new Guest(network, seed, node)
    await guest.#listen()
    return guest
  }

  async #listen () {
    const { gossip } = this.node.services
    gossip.topicValidators.set(this.network.topic, (from, { data }) => this.#judge(data))
    gossip.addEventListener('gossipsub:message', ({ detail: { propagationSource, msg } }) => {
      if (msg.topic !== this.network.topic) return
      const body = openBytes(msg.data)
      if (body.kind === 'manifest') this.gossiped.resolve({ job: body, from: propagationSource })
    })
    gossip.subscribe(this.network.topic)
    await this.node.handle(FRAMES, (stream, connection) => {
      this.#read(stream, connection.remotePeer).catch((error) => {
        if (!(error instanceof Refused)) return // the stream broke, or the node left
        report('reject', { peer: connection.remotePeer.toString(), rule: error.message })
      })
    })
  }

  /** The verdict on an announcement, before it is handed on. */
  #judge (announcement) {
    try {
      const body = openBytes(announcement)
      need(body.kind === 'manifest' || body.kind === 'closure', 'kind')
      if (body.kind === 'manifest') admit(body, this.network, Date.now())
      else need(same(body.network, this.network.id) && this.network.fits(body.publisher), 'network')
      return 'accept'
    } catch (error) {
      if (error instanceof Ignored) return 'ignore'
      report('reject', { rule: error.message })
      return 'reject'
    }
  }

  /** Take in what a peer writes on its message stream. */
  async #read (stream, peer) {
    const from = byteStream(stream)
    for (;;) {
      const message = readMessage(await readFramed(from, MESSAGE_MAX))
      try {
        this.#takeIn(message, peer)
      } catch (error) {
        if (!(error instanceof Ignored)) throw error
      }
    }
  }

  #takeIn ([what, ...fields], peer) {
    if (what === 'hello') {
      const [id, oldest, newest, , sealed] = fields
      if (!same(id, this.network.id)) throw new Ignored('another network')
      if (oldest > 1 || newest < 1) throw new Ignored('another version')
      const about = open(sealed)
      need(about.kind === 'record' && same(about.peer, peer.publicKey.raw), 'peer')
      believe(about, this.network, Date.now())
      this.#greeting(peer).resolve(about)
    } else if (what === 'deliver') {
      const body = open(fields[0])
      if (body.kind !== 'manifest') return
      admit(body, this.network, Date.now())
      this.delivered.resolve({ job: body, from: peer })
    }
  }

  #greeting (peer) {
    const id = peer.toString()
    if (!this.greetings.has(id)) this.greetings.set(id, deferred())
    return this.greetings.get(id)
  }

  /** The rendezvous key as this library wants it: a CID, of which only the multihash travels. */
  get #rendezvous () {
    return CID.createV1(0x55, Digest.decode(this.network.rendezvousKey))
  }

  /** Provide the network's key, until a node of the network gives it back as a provider. */
  async join () {
    const { dht } = this.node.services
    for (;;) {
      for await (const _ of dht.provide(this.#rendezvous)) { /* each step of the query */ }
      for await (const { from, id } of this.#providers()) {
        if (id.equals(this.node.peerId)) return from
      }
      await pause(500)
    }
  }

  /** A peer that provides the network's key, besides this one and the one that it started from. */
  async stranger (known) {
    for (;;) {
      for await (const { id, multiaddrs } of this.#providers()) {
        const isKnown = id.equals(this.node.peerId) || id.equals(known)
        if (!isKnown && multiaddrs.length > 0) return { id, multiaddrs }
      }
      await pause(500)
    }
  }

  /** What other nodes answer when they are asked for providers of the network's key. */
  async * #providers () {
    for await (const event of this.node.services.dht.findProviders(this.#rendezvous)) {
      // The library answers from its own store first.
      if (event.name !== 'PEER_RESPONSE' || event.from.equals(this.node.peerId)) continue
      for (const { id, multiaddrs } of event.providers) yield { from: event.from, id, multiaddrs }
    }
  }

  /** Wait until peers are connected, and known to hear announcements. */
  async hearers (count) {
    const { gossip } = this.node.services
    while (gossip.getMeshPeers(this.network.topic).length < count) await pause(100)
    return gossip.getMeshPeers(this.network.topic)
  }

  /** `length` bytes from `offset` of a blob, or null where the peer has them not. */
  async range (peer, cid, offset, length) {
    const stream = await this.node.dialProtocol(peer, BLOBS)
    try {
      const both = byteStream(stream)
      await both.write(framed(blobRequest(this.network, cid, offset, length)))
      const header = answered(await readFramed(both, 64), length)
      if (!header.found) return null
      const content = Buffer.alloc(length)
      for (let at = 0; at < length;) {
        const piece = await both.read({ bytes: Math.min(PIECE, length - at) })
        at += Buffer.from(piece.subarray()).copy(content, at)
      }
      return content
    } finally {
      await stream.close()
    }
  }

  /** A whole blob, checked by its name. */
  async blob (peer, what, cid, length) {
    const content = await this.range(peer, cid, 0, length)
    need(content !== null, `${what}: not there`)
    need(same(cidOf(content), cid), `${what}: other bytes than its CID names`)
    report('blob', { blob: what, cid: cidText(cid), bytes: length, peer: peer.toString() })
    return content
  }

  /** Fetch and check what a job consists of: table, model, its first pack and one input alone. */
  async take (job, peer) {
    const table = openTable(await this.blob(peer, 'table', job.table, job.tableBytes), job)
    await this.blob(peer, 'model', job.model, job.modelBytes)

    const inPack = table.units.filter(({ pack }) => pack === 0)
    const length = Math.max(...inPack.map(({ offset, length }) => offset + length))
    const pack = await this.blob(peer, 'pack', table.packs[0], length)
    for (const unit of inPack) {
      const input = pack.subarray(unit.offset, unit.offset + unit.length)
      need(same(sha256(input), unit.sha256), 'input: other bytes than the table names')
      openBundle(input)
    }

    const last = table.units.at(-1)
    const alone = await this.range(peer, table.packs[last.pack], last.offset, last.length)
    need(alone !== null, 'range: not there')
    need(same(sha256(alone), last.sha256), 'range: other bytes than the table names')
    const [{ name, shape }] = openBundle(alone)
    report('range', { unit: job.units - 1, bytes: last.length, tensor: name, shape })

    const nowhere = cidOf(crypto.getRandomValues(new Uint8Array(32)))
    need(await this.range(peer, nowhere, 0, 1) === null, 'a blob that nobody has was found')
    report('no-blob', { cid: cidText(nowhere) })
  }

  /** Open the message stream to a peer, say hello, and wait for the peer's own. */
  async greet (peer) {
    const stream = await this.node.dialProtocol(peer, FRAMES)
    const addresses = this.node.getMultiaddrs().map(String)
    const record = ownRecord(this.network, this.seed, SOFTWARE, addresses)
    stream.send(framed(hello(this.network, record)))
    const about = await this.#greeting(peer).promise
    return { stream, about }
  }
}

function told (job, by, from) {
  report('manifest', {
    by,
    from: from.toString(),
    job: hex(job.hash),
    name: job.name,
    publisher: hex(job.publisher),
    units: job.units
  })
}

async function main () {
  const asked = JSON.parse(argv[2])
  const owner = asked.network.owner === null ? null : Buffer.from(asked.network.owner, 'hex')
  const network = new Network({ ...asked.network, owner })
  const guest = await Guest.start(network)
  const { node } = guest
  const orders = createInterface({ input: stdin })[Symbol.asyncIterator]()
  report('listening', {
    peer: node.peerId.toString(),
    network: hex(network.id),
    addresses: node.getMultiaddrs().map(String)
  })

  const { remotePeer: first } = await within('dial', node.dial(multiaddr(asked.bootstrap)))
  const keeper = await within('join the DHT', guest.join())
  report('provided', { keeper: keeper.toString() })
  const { id, multiaddrs } = await within('look up the rendezvous key', guest.stranger(first))
  // With its peer id behind it, so that whoever else is found at an address is left again.
  const names = (address) => address.getComponents().some(({ name }) => name === 'p2p')
  await within('dial', node.dial(multiaddrs.map((address) => (
    names(address) ? address : address.encapsulate(`/p2p/${id}`)
  ))))
  report('found', { peer: id.toString(), addresses: multiaddrs.map(String) })
  const mesh = await within('mesh', guest.hearers(2))
  report('ready', { mesh })

  const gossiped = await within('gossip', guest.gossiped.promise)
  told(gossiped.job, 'gossip', gossiped.from)
  const publisher = node.getPeers().find((peer) => same(peer.publicKey.raw, gossiped.job.publisher))
  need(publisher !== undefined, 'the publisher is not connected')
  await within('blobs', guest.take(gossiped.job, publisher))

  await orders.next()
  for (const peer of node.getPeers()) {
    const { stream, about } = await within('greeting', guest.greet(peer))
    report('greeted', { peer: peer.toString(), software: about.software, roles: about.roles })
    if (peer.equals(publisher)) stream.send(framed(jobsSummary([], [])))
  }
  const delivered = await within('summary', guest.delivered.promise)
  told(delivered.job, 'summary', delivered.from)

  while (!(await orders.next()).done);
  await node.stop()
  report('left')
}

main().then(() => exit(0), (error) => {
  report('failed', { error: String(error), stack: error.stack })
  exit(1)
})

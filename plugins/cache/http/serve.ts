import type { FastifyReply, FastifyRequest } from 'fastify'
import { LRUCache } from 'lru-cache'
import type { Clock } from '../../shared/plugin/clock.js'
import { isPromise } from '../../shared/plugin/maybe-promise.js'
import { validationHeaders } from '../rfc/conditional.js'
import { reuseOf, type Usability } from '../rfc/reuse.js'
import { requestDirectives } from '../rfc/stored-headers.js'
import type { CacheKey } from '../store/cache-key.js'
import { isVariants } from '../store/entry.js'
import { MAX_LOOKUPS, type FillCoordinator } from '../tiers/coalescing.js'
import type { TwoTierCache, Tier } from '../tiers/two-tier-cache.js'
import type { Refresher } from './background-revalidation.js'
import { gatewayTimeout, matchesVary, lookupResponse, peekResponse, ttlOf, type LookupResult } from './lookup.js'
import { tagsFor } from './path-tags.js'
import { carries } from './reads/unkeyed-headers.js'
import { watchGetters } from './reads/watch-decorators.js'
import { handOver, ownHeaders, readAs } from './reads/watch-request.js'
import type { RequestCache } from './request-state.js'
import { applyStored, validatorsOf } from './send-stored.js'
import { usabilityOf, type StoredResponse } from './stored-response.js'

export interface ServeOptions {
  core: TwoTierCache
  works: FillCoordinator
  refresher: Refresher
  passes: HitForPass
}

/** Answers requests with what is stored. */
export function createServe ({ core, works, refresher, passes }: ServeOptions) {
  /** @returns whether the request has been answered */
  function use (request: FastifyRequest, reply: FastifyReply, state: RequestCache, entry: StoredResponse, usability: Usability, tier: Tier): boolean {
    const directives = state.route.requestDirectives === 'obey' ? requestDirectives(ownHeaders(request)) : undefined
    const reuse = reuseOf(usability, directives)
    if (reuse === 'validate' || (reuse === 'refresh' && !refresher.refresh(request, state, entry))) {
      state.stale = entry
      state.why = directives?.has('no-cache') ? 'the request says no-cache' : 'not fresh'
      return false
    }
    answer(request, reply, state, entry, usability, tier)
    return true
  }

  function answer (request: FastifyRequest, reply: FastifyReply, state: RequestCache, entry: StoredResponse, usability: Usability, tier: Tier): void {
    const { status } = state
    const ttl = ttlOf(usability)
    const isStale = ttl < 0
    core.count(state.key, isStale ? 'stale' : 'hits', tier)
    state.isAnswered = true
    status.outcome = isStale ? 'STALE' : 'HIT'
    status.fwd = undefined
    status.ttl = ttl
    const body = applyStored(reply, entry, state.client, usability.age, state.route.codings.choose(request, entry.encoded))
    state.answer = { entry, status: reply.statusCode, type: reply.getHeader('content-type'), coding: reply.getHeader('content-encoding'), body }
    reply.send(body)
  }

  /** Looks in the first tier. What a request says of its own is for the store. @returns whether the request has been answered */
  function peek (request: FastifyRequest, reply: FastifyReply, state: RequestCache, key: CacheKey): boolean {
    const entry = peekResponse(core, key, request, state)
    if (entry === undefined) return false
    const usability = usabilityOf(entry, core.now())
    return reuseOf(usability, undefined) === 'use' && use(request, reply, state, entry, usability, 'l1')
  }

  /** Looks in the store, and takes its turn in making what is not there. @returns whether the request has been answered */
  async function obtain (request: FastifyRequest, reply: FastifyReply, state: RequestCache): Promise<boolean> {
    const { key, route } = state
    if (key === undefined) return false
    const given = tagsFor(request, route)
    // Meanwhile work that a hook has begun may go on, and read.
    readAs('hooks', request)
    const tags = isPromise(given) ? await given : given
    for (let looks = 1; ; looks++) {
      const located = await lookupResponse(core, key, tags, request, state)
      const { response } = located
      if (response !== undefined && use(request, reply, state, response, usabilityOf(response, core.now()), 'l2')) return true
      if (refusesToWait(request, state)) {
        gatewayTimeout(reply, state)
        return true
      }
      if (request.method === 'HEAD') return forward(request, reply, state, located)
      state.passesFor = passes.namesFor(key.id, name => carries(request, state, name))
      if (state.passesFor !== undefined) {
        state.why = 'hit-for-pass'
        return forward(request, reply, state, located)
      }
      const turn = await works.join(located.place)
      if (turn.kind === 'retry' && looks < MAX_LOOKUPS) continue
      state.status.collapsed = turn.kind !== 'lead' && turn.kind !== 'failed'
      if ((turn.kind === 'filled' || turn.kind === 'stale') && turn.entry.kind === 'response') {
        const entry = turn.entry as StoredResponse
        if (matchesVary(entry, request, state)) {
          // In place of an error; or what was made a moment ago for somebody else who asked the same.
          const usability = usabilityOf(entry, core.now())
          if (turn.kind === 'stale') answer(request, reply, state, entry, usability, 'l2')
          if (turn.kind === 'stale' || use(request, reply, state, entry, usability, 'l2')) return true
        }
        // It told by what answers vary, so this one's variant is to be made, once.
        if (looks < MAX_LOOKUPS) continue
      }
      if (turn.kind === 'lead') state.fill = turn.fill
      return forward(request, reply, state, located)
    }
  }

  /** The handler is to answer. */
  function forward (request: FastifyRequest, reply: FastifyReply, state: RequestCache, located: LookupResult): false {
    const { base, response } = located
    core.count(state.key, 'misses')
    state.status = { ...state.status, outcome: 'MISS', fwd: response !== undefined ? 'stale' : isVariants(base.entry) ? 'vary-miss' : base.entry === undefined ? 'uri-miss' : 'miss', ttl: undefined }
    prepareHandler(core, request, reply, state, located)
    return false
  }

  return {
    /** @returns whether the request has been answered, at once where that can be */
    serve (request: FastifyRequest, reply: FastifyReply, state: RequestCache): boolean | Promise<boolean> {
      const { key } = state
      if (key === undefined) return false
      return peek(request, reply, state, key) || obtain(request, reply, state)
    }
  }
}

/** Before a handler runs: what its answer is made of, and whether it is to be asked if what is there is still right. */
export function prepareHandler (core: TwoTierCache, request: FastifyRequest, reply: FastifyReply, state: RequestCache, { base, place, response }: LookupResult): void {
  state.base = base
  state.place = place
  if (state.fill !== undefined && response !== undefined) validate(request, state, response)
  state.before = reply.getHeaders()
  state.requestedAt = core.now()
  // What is not stored anyway may depend on anything.
  if (state.fill === undefined) return
  watchGetters(request)
  handOver(request, reply)
}

function refusesToWait (request: FastifyRequest, { route }: RequestCache): boolean {
  return route.requestDirectives === 'obey' && (requestDirectives(ownHeaders(request))?.has('only-if-cached') ?? false)
}

/** Puts the stored answer's validators in the place of the client's conditions (RFC 9111 §4.3.1). */
function validate (request: FastifyRequest, state: RequestCache, response: StoredResponse): void {
  const conditions = validationHeaders(validatorsOf(response))
  if (Object.keys(conditions).length === 0) return
  const { headers } = request.raw
  for (const name of ['if-none-match', 'if-modified-since', 'if-match', 'if-unmodified-since', 'if-range', 'range']) Reflect.deleteProperty(headers, name)
  Object.assign(headers, conditions)
  state.stale = response
  state.validates = true
}

/** For how long requests of a key do not wait for one another after a response of it was not shareable. */
const PASS_MS = 10_000

const MOST_KEYS = 10_000

/** Keys of which responses depend on what they do not hold: their requests need not queue for a response that they cannot share ("hit-for-pass"). */
export class HitForPass {
  readonly #clock: Clock
  readonly #keys = new LRUCache<string, { names: string[], until: number }>({ max: MOST_KEYS })

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** @param names - what the response depends on: requests without any of these still share */
  add (id: string, names: string[]): void {
    this.#keys.set(id, { names, until: this.#clock.monotonic() + PASS_MS })
  }

  /** Returns what responses of a key depend on, where a request that carries one of the names is to pass. */
  namesFor (id: string, carries: (name: string) => boolean): readonly string[] | undefined {
    if (this.#keys.size === 0) return undefined
    const present = this.#keys.get(id)
    return present !== undefined && present.until > this.#clock.monotonic() && present.names.some(carries) ? present.names : undefined
  }
}

import { idAfter } from '../../../shared/work-queue/stream-ids.js'
import { ALL_TAG } from '../../store/store.js'
import type { TwoTierCache } from '../../tiers/two-tier-cache.js'
import type { CacheScope } from '../scope.js'
import type { ValueCodec } from '../value-codec.js'
import type { ValueOptions } from '../value-options.js'

/** The cached value of a write that is about to be queued. */
export interface StagedWrite {
  /** Caches the value, as its write is queued. @param id - the id of the write in its stream */
  confirm (id: string): Promise<void>
  /** Makes the cache what it was before, as the write was refused. */
  undo (): Promise<void>
  /** Removes the value, as it is not known whether the write was accepted. */
  remove (): Promise<void>
}

/**
 * The cached values of queued writes. Until the source has a write, its cached value is the only current one, so that:
 *
 * - the cache is set first, under a token that refuses the fills that have read the source before;
 * - once a write is queued, its id orders it among the values of concurrent writes, see `StagedEntry`;
 * - once the source has a write, the cache loses what was read from the source before: any value but that of this write
 *   or of a later one.
 *
 * Nothing rejects because of the store: a value that cannot be cached is removed, as soon as the store replies.
 */
export interface CachedWrites {
  /** @throws an error of the functions `ttl` and `tags` */
  stage (key: string, value: unknown): Promise<StagedWrite>
  /** Call it when the source has written them. */
  settle (writes: ReadonlyArray<{ key: string, id: string }>): Promise<void>
  /** Removes the value of a write that has become a dead letter, as the source never gets it. */
  giveUp (key: string, id: string): void
}

export type OpenCachedWrites = (options: ValueOptions<never>) => CachedWrites

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function openCachedWrites (
  cache: TwoTierCache, codec: ValueCodec, scope: CacheScope, options: ValueOptions<never>
): CachedWrites {
  const plan = scope.planOf(options)

  async function stage (name: string, value: unknown): Promise<StagedWrite> {
    const key = scope.keyOf(name)
    const remove = async (): Promise<void> => { await cache.remove([key]).catch(() => {}) }
    const draft = codec.draft(key, value, await plan.ttl(value), plan)
    const tags = [ALL_TAG, ...plan.tags, ...await plan.tagsOf?.(value) ?? []]
    if (draft.ttl === 0) return { confirm: remove, undo: async () => {}, remove }
    const start = await cache.attempt(() => cache.store.tags(tags))
    const entry = start && codec.toEntry(draft, start.now, start.versions)
    const staged = entry && await cache.stage(key, entry)
    // It may be staged although there was no reply.
    if (entry === undefined || staged === undefined) return { confirm: remove, undo: remove, remove }
    return {
      confirm: async id => {
        if (await cache.confirm(key, staged, entry, id) === undefined) await remove()
      },
      undo: async () => {
        if (!await cache.undo(key, staged)) await remove()
      },
      remove
    }
  }

  return {
    stage,
    async settle (writes) {
      const last = new Map(writes.map(({ key, id }) => [key, id]))
      await cache.settle([...last].map(([name, position]) => ({ key: scope.keyOf(name), position })))
    },
    giveUp (name, id) {
      cache.inBackground(cache.settle([{ key: scope.keyOf(name), position: idAfter(id) }]))
    }
  }
}

import { LRUCache } from 'lru-cache'
import { hashId } from '../../shared/plugin/keys.js'

const MOST_KEYS = 1000
/** A client chooses how long the header is that the text holds. */
const LONGEST_TEXT = 500

/**
 * Which variants of a key this process has served, so that the one that was used least recently is the first to go. Uses are recorded only
 * while there is no room for another variant: a hit costs next to nothing before that.
 */
export class VariantUses {
  /** By the text of the key, the texts of its variants' keys, the one used last at the end. */
  #uses: LRUCache<string, Set<string>> | undefined

  /** @param maxVariants - how many variants there may be, so that this is the bound of what is recorded as well */
  record (key: string, variant: string, maxVariants: number): void {
    if (variant.length > LONGEST_TEXT) return
    this.#uses ??= new LRUCache({ max: MOST_KEYS })
    let used = this.#uses.get(key)
    if (used === undefined) this.#uses.set(key, used = new Set())
    used.delete(variant)
    used.add(variant)
    if (used.size <= maxVariants) return
    const [oldest = ''] = used
    used.delete(oldest)
  }

  /** @returns the ids in the order of their last use, those that this process has not used first, in the order they have */
  inOrder (key: string, ids: readonly string[]): string[] {
    const used = this.#uses?.get(key)
    if (used === undefined) return [...ids]
    const recent = [...used].map(hashId).filter(id => ids.includes(id))
    return [...ids.filter(id => !recent.includes(id)), ...recent]
  }
}

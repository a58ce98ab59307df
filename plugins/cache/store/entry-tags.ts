import { PATTERN_TAG } from './store.js'

type Versions = Readonly<Record<string, string>>

/** Returns the versions of tags that an entry carries: all but that of removals by pattern. */
export class EntryTags {
  #versions: Versions | undefined
  #tags: Record<string, string> = {}

  /** The entries of one turn of the event loop mostly have one record of versions. */
  of (versions: Versions): Record<string, string> {
    if (versions !== this.#versions) {
      const { [PATTERN_TAG]: _, ...tags } = versions
      this.#versions = versions
      this.#tags = tags
    }
    return this.#tags
  }
}

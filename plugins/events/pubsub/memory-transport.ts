import type { Pattern } from './patterns.js'
import type { Transport, TransportListener } from './transport.js'

/** Among the subscribers of this process. */
export function createMemoryTransport (listener: TransportListener): Transport {
  const patterns = new Map<string, Pattern>()
  return {
    async publish (name, text) {
      // As from a server: not within the publisher's call.
      queueMicrotask(() => {
        for (const pattern of [...patterns.values()]) {
          if (pattern.matches(name)) listener.message(pattern.text, name, text)
        }
      })
    },
    listen (pattern) {
      patterns.set(pattern.text, pattern)
      listener.live(pattern.text)
    },
    async unlisten ({ text }) {
      patterns.delete(text)
    },
    close () {
      patterns.clear()
    }
  }
}

import type { Pattern } from './patterns.js'
import type { Transport, TransportListener } from './transport.js'

/** Creates a transport within this process. */
export function createMemoryTransport (listener: TransportListener): Transport {
  const patterns = new Map<string, Pattern>()
  return {
    async publish (name, text) {
      // As with a server, subscribers are never called within `publish`.
      queueMicrotask(() => {
        for (const pattern of [...patterns.values()]) {
          if (pattern.matches(name)) listener.message(pattern.text, name, text)
        }
      })
    },
    subscribe (pattern) {
      patterns.set(pattern.text, pattern)
      listener.live(pattern.text)
    },
    async unsubscribe ({ text }) {
      patterns.delete(text)
    },
    close () {
      patterns.clear()
    }
  }
}

import type { Pattern } from './patterns.js'

/** Carries messages from publishers to subscribers. */
export interface Transport {
  publish (name: string, text: string): Promise<void>
  /** Starts a subscription; the listener's `live` reports when it is confirmed. */
  subscribe (pattern: Pattern): void
  unsubscribe (pattern: Pattern): Promise<void>
  close (): void
}

/** Receives messages and changes of state, by the pattern's text. */
export interface TransportListener {
  message (pattern: string, name: string, text: string): void
  /** From now on every message is received. */
  live (pattern: string): void
  /** From now on messages may be missed. */
  lost (pattern: string): void
  /** The server refused the subscription, which is retried. */
  refused (pattern: string, reason: string): void
}

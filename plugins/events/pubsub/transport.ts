import type { Pattern } from './patterns.js'

/** Carries messages between those who publish and those who listen. */
export interface Transport {
  publish (name: string, text: string): Promise<void>
  /** Begins to listen; the listener is told when it hears. */
  listen (pattern: Pattern): void
  unlisten (pattern: Pattern): Promise<void>
  close (): void
}

/** What a transport tells, by the pattern's text. */
export interface TransportListener {
  message (pattern: string, name: string, text: string): void
  /** From now on every message is heard. */
  live (pattern: string): void
  /** From now on messages may be missed. */
  lost (pattern: string): void
  /** The server does not let it listen; it is tried again. */
  refused (pattern: string, reason: string): void
}

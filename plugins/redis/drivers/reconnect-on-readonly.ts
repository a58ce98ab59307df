import type { Clock } from '../../shared/plugin/clock.js'

const MIN_INTERVAL_MS = 1000

/** A client whose server may have become a replica. */
interface Reconnectable {
  /** Connects once more, and returns the reply to ROLE. The connection is closed then. */
  roleOfNew: () => Promise<unknown>
  /** Returns the reply to ROLE of the client's own connection. */
  roleOfOwn: () => Promise<unknown>
  /** Replaces the client's own connection. */
  reconnect: () => void
}

/**
 * Reconnects a client whose server has become a replica, and refuses writes with `READONLY`: after a failover a new
 * connection may lead to the master. A second connection finds out whether it does, at most once a second, and only
 * then the client's own is replaced. Reads go on meanwhile, as a replica serves them. Nothing is replaced if the server
 * is a master again: a command that is sent just then would get no reply.
 *
 * @returns a function to be called for each refusal
 */
export function reconnectOnReadonly ({ roleOfNew, roleOfOwn, reconnect }: Reconnectable, clock: Clock): () => void {
  let checkedAt = -Infinity
  return () => {
    if (clock.monotonic() - checkedAt < MIN_INTERVAL_MS) return
    checkedAt = clock.monotonic()
    replace().catch(() => {})
  }

  async function replace (): Promise<void> {
    if (isMaster(await roleOfNew()) && !isMaster(await roleOfOwn())) reconnect()
  }
}

function isMaster (role: unknown): boolean {
  return Array.isArray(role) && role[0] === 'master'
}

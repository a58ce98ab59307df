/** What decides whether a response that is not stored removes the stored one in whose place it was made. */
export interface WithdrawalInput {
  status: number
  /** Why it is not stored. */
  why: string
  /** Whether it was made in the background, by a request that has neither credentials nor a session of a client. */
  isBackground: boolean
  /** Whether the stored response is of one owner alone. */
  hasOwner: boolean
  /** Whether it may depend on what this client alone sent. */
  isOfTheClient: boolean
}

// The resource is gone, or may not be served any longer (RFC 9110 §15.5.5, §15.5.11, RFC 7725).
const GONE = new Set([404, 410, 451])
const REFUSED = new Set([401, 403])
// Reasons that lie in the client who asked.
const OF_THE_CLIENT = /^(?:authorization|session|user|reads .*)$/

/**
 * Whether the source has taken back what is stored. Any full response but a failure has (RFC 9111 §4.3.3): the stored one is
 * outdated, and serving it on would hide that. Not so a response that is about the client alone: an error of its request,
 * missing credentials, a 304 to its own conditions, or its own credentials, session or headers as the reason. Other clients
 * share the stored response, and one client must not decide about it.
 */
export function isWithdrawn ({ status, why, isBackground, hasOwner, isOfTheClient }: WithdrawalInput): boolean {
  if (isOfTheClient) return false
  if (GONE.has(status)) return true
  if (hasOwner && REFUSED.has(status)) return true
  return status < 400 && status !== 304 && why !== 'error' && (isBackground || !OF_THE_CLIENT.test(why))
}

export function isGone (status: number): boolean {
  return GONE.has(status)
}

/** The votes of several nodes. */
export interface QuorumResult<T> {
  readonly yes: readonly T[]
  readonly no: readonly T[]
  /** Why the other nodes did not vote. */
  readonly errors: readonly unknown[]
  /** The majority's vote; undefined if there is no majority. */
  readonly verdict: boolean | undefined
  /** Whether enough nodes voted for a majority to be possible. */
  readonly isQuorate: boolean
}

/** Resolves as soon as the missing votes cannot change the verdict: a node that hangs causes no delay. */
export function vote<T> (replies: ReadonlyArray<Promise<T>>, isYes: (reply: T) => boolean): Promise<QuorumResult<T>> {
  const count = replies.length
  const yes: T[] = []
  const no: T[] = []
  const errors: unknown[] = []
  return new Promise(resolve => {
    const decide = () => {
      const verdict = yes.length * 2 > count ? true : no.length * 2 >= count ? false : undefined
      const isOver = yes.length + no.length + errors.length === count
      if (verdict !== undefined || isOver) {
        resolve({
          yes: [...yes], no: [...no], errors: [...errors], verdict, isQuorate: (count - errors.length) * 2 > count
        })
      }
    }
    for (const reply of replies) {
      reply.then(
        value => { (isYes(value) ? yes : no).push(value) }, (error: unknown) => { errors.push(error) }
      ).then(decide)
    }
  })
}

/** What several nodes said to the same question. */
export interface QuorumResult<T> {
  readonly yes: readonly T[]
  readonly no: readonly T[]
  /** Why the others did not answer. */
  readonly errors: readonly unknown[]
  /** What the majority said; undefined where too many did not answer, or are not of one mind. */
  readonly verdict: boolean | undefined
  /** Whether so many answered that together they could be a majority. */
  readonly isQuorate: boolean
}

/**
 * Resolves as soon as a majority said yes, or can no longer do so whatever the others say: a node that hangs keeps
 * nobody waiting.
 */
export function vote<T> (answers: ReadonlyArray<Promise<T>>, isYes: (answer: T) => boolean): Promise<QuorumResult<T>> {
  const count = answers.length
  const yes: T[] = []
  const no: T[] = []
  const errors: unknown[] = []
  return new Promise(resolve => {
    const decide = () => {
      const verdict = yes.length * 2 > count ? true : no.length * 2 >= count ? false : undefined
      const isOver = yes.length + no.length + errors.length === count
      if (verdict !== undefined || isOver) resolve({ yes: [...yes], no: [...no], errors: [...errors], verdict, isQuorate: (count - errors.length) * 2 > count })
    }
    for (const answer of answers) {
      answer.then(value => { (isYes(value) ? yes : no).push(value) }, (error: unknown) => { errors.push(error) }).then(decide)
    }
  })
}

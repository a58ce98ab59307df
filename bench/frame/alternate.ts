/** Runs a round of each item alternately, so that the machine's drift affects all of them. */
export async function alternate<T> (
  items: readonly T[], rounds: number, run: (item: T) => Promise<unknown>
): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    // Forward and backward, so that none is always first.
    for (const item of round % 2 === 0 ? items : [...items].reverse()) await run(item)
  }
}

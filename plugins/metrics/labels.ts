export const OTHER = 'other'

/** The values that a label may have: the first `most` that come, as they are; all others are one. */
export function boundedLabel (most: number): (value: string) => string {
  const values = new Set<string>()
  return value => {
    if (values.has(value)) return value
    if (values.size >= most) return OTHER
    values.add(value)
    return value
  }
}

export const OTHER = 'other'

/** Returns a function that bounds the values of a label: after the first `max` values all are `other`. */
export function boundedLabel (max: number): (value: string) => string {
  const values = new Set<string>()
  return value => {
    if (values.has(value)) return value
    if (values.size >= max) return OTHER
    values.add(value)
    return value
  }
}

import { canonicalText } from './canonical.js'

/**
 * Returns the constraints of a route as text, to count its requests apart from those of routes with other constraints.
 * Constraints without a text of their own, such as instances of a class, do not separate counts.
 */
export function constraintsText (constraints: object | undefined): string {
  try {
    return constraints === undefined || Object.keys(constraints).length === 0 ? '' : canonicalText(constraints)
  } catch {
    return ''
  }
}

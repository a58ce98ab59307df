// Ids of owners and users that functions of an app return.

/** Whether a value means that there is no owner or user. */
export function isNoId (id: unknown): boolean {
  return id === undefined || id === null || id === '' || id === false || Number.isNaN(id)
}

/** Whether a value is a bigint, or a number that {@link isExactNumber} accepts. */
export function isNumericId (id: unknown): id is number | bigint {
  return typeof id === 'bigint' || isExactNumber(id)
}

/** Whether a number stands for exactly one id. Whole numbers above 2^53 are rounded, so that several ids share one. */
export function isExactNumber (id: unknown): id is number {
  return Number.isSafeInteger(id) || (Number.isFinite(id) && !Number.isInteger(id))
}

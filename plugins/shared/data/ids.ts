// What functions of an app return as the id of an owner or a user.

/** Whether a value means that there is nobody. */
export function isNobody (id: unknown): boolean {
  return id === undefined || id === null || id === '' || id === false || Number.isNaN(id)
}

/** Whether a number or a bigint stands for one id, as {@link isExactNumber} says. */
export function isNumericId (id: unknown): id is number | bigint {
  return typeof id === 'bigint' || isExactNumber(id)
}

/** Whether a number stands for one id. Whole numbers above 2^53 have been rounded, so that several ids become one of them. */
export function isExactNumber (id: unknown): id is number {
  return Number.isSafeInteger(id) || (Number.isFinite(id) && !Number.isInteger(id))
}

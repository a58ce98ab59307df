export type Row = Record<string, string | number>

export function markdown (rows: readonly Row[]): string {
  const line = (cells: readonly unknown[]) => `| ${cells.join(' | ')} |`
  const names = Object.keys(rows[0] ?? {})
  return [line(names), line(names.map(() => '---')), ...rows.map(row => line(Object.values(row)))].join('\n')
}

/** Returns a number of at least three digits, with groups of thousands; '–' if there is none. */
export function short (value: number): string {
  if (!Number.isFinite(value)) return '–'
  return value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)))
}

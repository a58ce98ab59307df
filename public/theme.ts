/** Returns a colour of the style sheet, for charts. */
export function colour (name: 'accent' | 'text' | 'muted' | 'line' | 'refused' | 'soft'): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
}

export function onThemeChange (listener: () => void): void {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', listener)
}

export const prefersStillness = matchMedia('(prefers-reduced-motion: reduce)')

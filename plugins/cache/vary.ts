/**
 * The request headers that an answer varies by, in lower case.
 *
 * @returns `*` where no other request can be told to be the same (RFC 9111 §4.1)
 */
export function parseVary (field: string | undefined): string[] | '*' {
  const names = (field ?? '').toLowerCase().split(',').map(name => name.trim()).filter(name => name !== '')
  return names.includes('*') ? '*' : [...new Set(names)].sort()
}

/** A header's value as it selects an answer: spellings that mean the same are the same (RFC 9111 §4.1). */
export function normalizeSelecting (name: string, value: string | string[] | undefined): string {
  if (value === undefined) return ''
  const joined = (Array.isArray(value) ? value.join(',') : value).trim()
  if (name === 'accept-encoding' || name === 'accept-language') return byPreference(joined)
  return joined.split(',').map(part => part.trim().replaceAll(/[\t ]+/g, ' ')).join(',')
}

/** What is weighted: in lower case, without what is refused, the most wanted first. */
function byPreference (value: string): string {
  return value.toLowerCase().split(',')
    .map(part => {
      const [name = '', ...parameters] = part.split(';').map(text => text.trim())
      const weight = parameters.find(parameter => /^q\s*=/.test(parameter))?.split('=')[1]?.trim()
      return { name, q: weight === undefined ? 1 : /^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.test(weight) ? Number(weight) : 0 }
    })
    .filter(({ name, q }) => name !== '' && q > 0)
    .sort((a, b) => b.q - a.q || (a.name < b.name ? -1 : 1))
    .map(({ name, q }) => q === 1 ? name : `${name};q=${q}`)
    .join(',')
}

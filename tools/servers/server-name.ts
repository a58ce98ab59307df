/** Returns the product and version of a server, such as `Valkey 9.1.2`, by the section `server` of its `INFO`. */
export function serverName (info: string): string {
  // Valkey and Redict also have a redis_version: that of the Redis whose commands they have.
  const found = /^(valkey|redict)_version:(\S+)/m.exec(info) ?? /^(redis)_version:(\S+)/m.exec(info)
  const [, product = 'redis', version = ''] = found ?? []
  return nameWithVersion(product, version)
}

/** Returns such a name by the product's in lower case. */
export function nameWithVersion (product: string, version: string): string {
  return `${product[0]?.toUpperCase()}${product.slice(1)} ${version}`.trimEnd()
}

export interface Certificate {
  cert: string
  key: string
}

/** A self-signed certificate for localhost and 127.0.0.1; it is its own CA. */
export async function makeCertificate (): Promise<Certificate> {
  // Imported on use: it has 200 modules, and few test files need a certificate.
  const { generate } = await import('selfsigned')
  const pems = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'subjectAltName', altNames: [{ type: 2, value: 'localhost' }, { type: 7, ip: '127.0.0.1' }] }
    ]
  })
  return { cert: pems.cert, key: pems.private }
}

import { html, type Markup } from './html.js'

interface Product {
  id: number
  name: string
  description: string
  category: string
  priceCents: number
  stock: number
}

/** When a page was rendered, and by which instance. */
export interface Rendering {
  at: Date
  instance: string
}

export interface ProductListPage {
  items: readonly Product[]
  total: number
  categories: readonly string[]
  /** The query of the page; `q` for a search. */
  query: {
    q?: string
    category?: string | undefined
    minPrice?: number | undefined
    maxPrice?: number | undefined
    sort?: string
    limit: number
    offset?: number
  }
  rendering: Rendering
}

const SORT_NAMES = { name: 'name', price: 'lowest price', '-price': 'highest price', newest: 'newest' } as const
const PRICE = new Intl.NumberFormat('en', { minimumFractionDigits: 2 })
const COUNT = new Intl.NumberFormat('en')

/** A page of products, or the results of a search. */
export function productListPage ({ items, total, categories, query, rendering }: ProductListPage): Markup {
  const { q, category, minPrice, maxPrice, sort = 'name', limit, offset = 0 } = query
  const linkTo = (change: Record<string, string | undefined>) => {
    const given = {
      category,
      minPrice: minPrice?.toString(),
      maxPrice: maxPrice?.toString(),
      sort: sort === 'name' ? undefined : sort,
      limit: limit === 20 ? undefined : String(limit),
      ...change
    }
    const search = new URLSearchParams(
      Object.entries(given).filter((pair): pair is [string, string] => pair[1] !== undefined)
    ).toString()
    return search === '' ? '/products' : `/products?${search}`
  }
  const choice = (text: string, href: string, isCurrent: boolean) =>
    html`<a href="${href}"${isCurrent ? html` aria-current="true"` : undefined}>${text}</a> `
  const filters = q !== undefined
    ? html`<p><a href="/products">All products</a></p>`
    : html`<nav class="choices" aria-label="Category"><b>Category</b> ${choice(
      'all', linkTo({ category: undefined }), category === undefined
    )}${categories.map(each => choice(each, linkTo({ category: each }), each === category))}</nav>
      <nav class="choices" aria-label="Sort by"><b>Sort by</b> ${Object.entries(SORT_NAMES).map(([key, text]) =>
        choice(text, linkTo({ sort: key === 'name' ? undefined : key }), key === sort))}</nav>`
  const last = offset + items.length
  const range = items.length === 0
    ? 'No products'
    : q !== undefined
      ? `${items.length} ${items.length === 1 ? 'result' : 'results'}`
      : `${COUNT.format(offset + 1)} to ${COUNT.format(last)} of ${COUNT.format(total)}`
  return layout(q === undefined ? 'Products' : `Search: ${q}`, q ?? '', rendering, html`
    <div class="filters">${filters}</div>
    <p class="range">${range}</p>
    <ul class="products">${items.map(product => html`
      <li><h2><a href="/products/${product.id}">${product.name}</a></h2><p>${product.category}</p><p><b>${price(product)}</b> ${stock(product)}</p></li>`)}
    </ul>
    ${q === undefined
      ? html`<nav class="pages" aria-label="Pages">
      ${offset > 0
? html`<a rel="prev" href="${linkTo(
        { offset: offset > limit ? String(offset - limit) : undefined }
      )}">Previous</a>`
: undefined}
      ${last < total &&
        items.length > 0
? html`<a rel="next" href="${linkTo({ offset: String(last) })}">Next</a>`
: undefined}
    </nav>`
      : undefined}`)
}

/** The page of one product. */
export function productPage (product: Product, rendering: Rendering): Markup {
  return layout(product.name, '', rendering, html`
    <article class="product">
      <p>${product.description}</p>
      <dl class="figures">
        <div><dt>Price</dt><dd>${price(product)}</dd></div>
        <div><dt>Stock</dt><dd>${stock(product)}</dd></div>
        <div><dt>Category</dt><dd><a href="/products?category=${encodeURIComponent(product.category)}">${product.category}</a></dd></div>
      </dl>
      <p><a href="/products">All products</a></p>
    </article>`)
}

/** The page for an id without a product. */
export function noProductPage (): Markup {
  return layout('No such product', '', undefined, html`
    <article class="product"><p>The shop has no product with this id.</p><p><a href="/products">All products</a></p></article>`)
}

function price ({ priceCents }: Product): string {
  return `€ ${PRICE.format(priceCents / 100)}`
}

function stock ({ stock }: Product): Markup {
  return stock === 0 ? html`<span class="sold-out">sold out</span>` : html`<span>${stock} in stock</span>`
}

function layout (title: string, q: string, rendering: Rendering | undefined, content: Markup): Markup {
  return html`<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>${title} · fastify-redis-suite demo</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/assets/style.css">
</head>
<body class="shop">
  <a class="skip" href="#content">Skip to the products</a>
  <header>
    <h1>${title}</h1>
    <form action="/products/search" role="search">
      <label for="q">Search</label>
      <input type="search" id="q" name="q" value="${q}" maxlength="100" required placeholder="teapot">
      <button type="submit">Search</button>
    </form>
    <nav aria-label="Demo"><a href="/">Live page</a> <a href="/docs">API</a></nav>
  </header>
  <main id="content" tabindex="-1">${content}
  </main>
  ${rendering === undefined ? undefined : footer(rendering)}
</body>
</html>
`
}

function footer ({ at, instance }: Rendering): Markup {
  return html`<footer>
    <p>Rendered at <time datetime="${at.toISOString()}">${at.toISOString().slice(11, 19)} UTC</time> by instance <code>${instance}</code>, and cached for one minute.
      Reload this page: the time stays the same while all instances serve the cached copy. A change of a product invalidates it at once.</p>
    <p>API clients receive JSON from the same URL. <code>Vary: Accept</code> separates the two copies.</p>
  </footer>`
}

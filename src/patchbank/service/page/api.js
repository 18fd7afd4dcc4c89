// The service over HTTP. Addresses are relative, so that the page also works below a prefix of a reverse proxy.

/** What the service, or the way to it, said; `message` is a sentence for people. */
export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = 0, body = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.body = body;
  }

  /** No answer at all, or one that may be different in a moment. */
  get isTemporary() {
    return this.status === 0 || this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

const listeners = new Set();

/** Hear of the connection: called with true after each answer and with false where there was none. */
export function onConnection(listener) {
  listeners.add(listener);
}

export async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return request(query ? `${path}?${query}` : path, {});
}

export async function post(path, body) {
  return request(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
}

export async function remove(path) {
  return request(path, { method: "DELETE" });
}

/** Send samples to a model, each as its files by field; the results come in the order of the samples. */
export async function inspect(model, samples) {
  const form = new FormData();
  for (const sample of samples) for (const [field, file] of Object.entries(sample)) form.append(field, file, file.name);
  try {
    return (await request(`v1/models/${encodeURIComponent(model)}/inspect?overlay=false`, { method: "POST", body: form })).results;
  } catch (error) {
    if (error.body?.results?.length === samples.length) return error.body.results; // not one of them could be inspected
    throw error;
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw lost("the service does not answer");
  }
  if (response.status === 401) {
    location.assign("page/login.html");
    throw new ApiError("please sign in", 401);
  }
  const body = response.status === 204 ? null : await response.json().catch(() => undefined);
  if (response.ok && body === undefined) throw lost("the answer is not the service's, or was cut off"); // such as a proxy's page
  for (const listener of listeners) listener(true);
  if (!response.ok) throw new ApiError(sentence(response, body), response.status, Number(response.headers.get("retry-after")) || 1, body);
  return body;
}

function lost(message) {
  for (const listener of listeners) listener(false);
  return new ApiError(message);
}

function sentence(response, body) {
  if (typeof body?.detail === "string") return body.detail;
  return response.status === 429 ? "the service is busy" : `the service answered with an error (${response.status})`;
}

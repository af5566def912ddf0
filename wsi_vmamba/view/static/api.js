// Asks the server; an answer that is an error becomes an ApiError with the server's words.
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export async function ask(url, options = {}) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "gone", "The server does not answer. Is `wsi-vmamba view` still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw new ApiError(401, "no_token", "Open the address that the command printed.");
  throw new ApiError(answer.status, said.error?.code || "unknown", said.error?.message || `The server answered ${answer.status}.`);
}

export const getJson = async (url, options) => (await ask(url, options)).json();

// The login form: the token goes to the service, which sets a cookie that scripts cannot read.

const form = document.querySelector("form");
const problem = document.getElementById("problem");

function tell(words) {
  problem.textContent = words;
  problem.hidden = false;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  let response;
  try {
    response = await fetch("login", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token: form.token.value }),
    });
  } catch {
    tell("The service does not answer. Try again in a moment.");
    return;
  }
  if (response.ok) location.replace("../");
  else if (response.status === 401) tell("That is not the token of this service.");
  else tell(`The service answered with an error (${response.status}).`);
  form.token.select();
});

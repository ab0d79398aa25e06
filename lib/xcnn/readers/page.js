// Asks the questions of a test of readers, and counts. Nothing leaves the page, nothing is stored.
(() => {
  "use strict";

  // A fair shuffle: each order is equally likely.
  function shuffled(values) {
    const order = [...values];
    for (let k = order.length - 1; k > 0; k--) {
      const other = Math.floor((crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32) * (k + 1));
      [order[k], order[other]] = [order[other], order[k]];
    }
    return order;
  }

  function element(tag, text, properties = {}) {
    return Object.assign(document.createElement(tag), { textContent: text }, properties);
  }

  // The code at the end: two bits for each question, two questions a hexadecimal digit.
  function encode(key, answers) {
    const pairs = answers.map((answer) => 2 * answer.map + 1 * answer.right);
    if (pairs.length % 2) pairs.push(0);
    let code = `${key}-`;
    for (let k = 0; k < pairs.length; k += 2) code += (4 * pairs[k] + pairs[k + 1]).toString(16);
    const total = [...code].reduce((sum, letter, k) => sum + (k + 1) * letter.charCodeAt(0), 0);
    return `${code}-${(total % 251).toString(16).padStart(2, "0")}`;
  }

  function wire(test) {
    const stage = test.querySelector(".stage");
    const said = test.querySelector(".said");
    const { key, questions } = JSON.parse(test.querySelector(".questions").textContent);
    test.dataset.ready = "yes"; // the script may run twice
    const start = element("button", "Start", { type: "button", onclick: run });
    stage.replaceChildren(start);

    function run() {
      const everyone = questions.map((_, k) => k);
      const order = shuffled(everyone);
      const coin = shuffled([0, 1])[0]; // of an odd number, which half is the larger
      const withMap = new Set(shuffled(everyone).slice(0, Math.floor((questions.length + coin) / 2)));
      const answers = [];
      ask(0);

      function ask(turn) {
        if (turn === order.length) return finish(answers);
        const number = order[turn];
        const question = questions[number];
        const map = withMap.has(number);
        const fieldset = document.createElement("fieldset");
        const place = `Question ${turn + 1} of ${order.length}, ${map ? "with" : "without"} the map. `;
        const legend = element("legend", place + question.prompt, { tabIndex: -1 });
        const picture = document.createElement("div");
        picture.innerHTML = map ? question.map : question.plain;
        fieldset.append(legend, picture);
        for (const option of question.options) {
          const choose = () => {
            answers[number] = { map, option, right: option === question.answer };
            ask(turn + 1);
          };
          fieldset.append(element("button", option, { type: "button", onclick: choose }));
        }
        stage.replaceChildren(fieldset);
        legend.focus({ preventScroll: true });
      }
    }

    function finish(answers) {
      const counts = [true, false].map((map) => {
        const asked = answers.filter((answer) => answer.map === map);
        return `${asked.filter((answer) => answer.right).length} of ${asked.length}`;
      });
      const result = `With the map ${counts[0]} right, without it ${counts[1]}.`;
      const code = element("p", "Your code: ");
      code.append(element("code", encode(key, answers)));
      const title = element("p", result, { className: "result", tabIndex: -1 });
      const again = element("button", "Start again", { type: "button", onclick: run });
      stage.replaceChildren(title, code, review(answers), again);
      title.focus({ preventScroll: true });
      said.textContent = result;
    }

    function review(answers) {
      const list = document.createElement("ol");
      questions.forEach((question, k) => {
        const { map, option, right } = answers[k];
        const judged = right ? "right" : `the answer is: ${question.answer}`;
        list.append(element("li", `${question.prompt} You said ${option} (${map ? "with" : "without"} the map); ${judged}.`));
      });
      const details = document.createElement("details");
      details.append(element("summary", "All questions and answers"), list);
      return details;
    }
  }

  document.querySelectorAll(".xcnn-reader-test:not([data-ready])").forEach(wire);
})();

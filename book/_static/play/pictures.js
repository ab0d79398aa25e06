// Where pictures come from: a file, the clipboard, the camera.

const TOO_LARGE = 100e6; // pixels

// A picture file as {image}, or {problem}: one line that says what to do.
export async function picturesOf(file) {
  try {
    const image = await createImageBitmap(file);
    if (image.width * image.height > TOO_LARGE) {
      image.close();
      return { problem: "This picture is too large; make it smaller than 100 megapixels." };
    }
    return { image };
  } catch {
    return { problem: `"${file.name}" is not a picture that this browser can read; try JPEG or PNG.` };
  }
}

// The middle of a picture, its shorter side resized to size: ImageData, size x size.
export function squareOf(image, size) {
  const canvas = new OffscreenCanvas(size, size);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // under a transparent picture
  context.fillRect(0, 0, size, size);
  const side = Math.min(image.width, image.height);
  const left = (image.width - side) / 2;
  const top = (image.height - side) / 2;
  context.drawImage(image, left, top, side, side, 0, 0, size, size);
  return context.getImageData(0, 0, size, size);
}

// Opens the camera; a button takes the picture, and the camera is switched off again.
export async function startCamera(view, say, take) {
  let stream = null;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    say("The camera cannot be used: allow it in the browser, or choose a file.");
    return;
  }
  const video = document.createElement("video");
  video.srcObject = stream;
  video.muted = true;
  video.playsInline = true;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Take the picture";
  view.camera.replaceChildren(video, button);
  await video.play();
  button.focus();
  button.onclick = async () => {
    const image = await createImageBitmap(video);
    for (const track of stream.getTracks()) track.stop();
    view.camera.replaceChildren();
    take(image);
  };
}

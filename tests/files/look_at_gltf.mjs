// Print what Khronos' validator says of a .glb file, and what three.js makes of it, as JSON.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { Box3, Color, Vector3 } from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const validator = createRequire(import.meta.url)("gltf-validator");
const content = await readFile(process.argv[2]);
const report = await validator.validateBytes(new Uint8Array(content));

const bytes = content.buffer.slice(content.byteOffset, content.byteOffset + content.byteLength);
const { scene } = await new GLTFLoader().parseAsync(bytes, "");
scene.updateMatrixWorld(true);
const box = new Box3().setFromObject(scene, true);
const meshes = [];
scene.traverse((node) => {
  if (!node.isMesh) return;
  const { position, normal, color } = node.geometry.attributes;
  const first = new Vector3().fromBufferAttribute(position, 0);
  const linear = color && new Color(color.getX(0), color.getY(0), color.getZ(0));
  meshes.push({
    vertices: position.count,
    faces: node.geometry.index.count / 3,
    first: node.localToWorld(first.clone()).toArray(),
    normal: new Vector3().fromBufferAttribute(normal, 0).transformDirection(node.matrixWorld).toArray(),
    // What a screen shows of it.
    srgb: linear && linear.convertLinearToSRGB().toArray(),
    material: node.material.type,
    vertexColors: node.material.vertexColors,
  });
});
console.log(JSON.stringify({ issues: report.issues, min: box.min.toArray(), max: box.max.toArray(), meshes }));
